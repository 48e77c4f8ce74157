"""A rollout from the revision that is served to another, whole: checked, made, recorded.

Rules
- All that can be refused is refused before anything is touched.
- Only one acts at a time (ppipe.rollout.lock), and what cannot be recorded is not done.
- deployment.json becomes the new revision's last of all: servers that are started anew serve that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from model_repo_generator.writing.grow import grow
from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.revision import run_of
from planner.rollout.check import check_rollout
from planner.rollout.fleet import FleetRevision, Situation
from planner.rollout.steps import Step, StepKind, steps_to
from planner.rollout.tables import capacities
from ppipe.rollout.deployed import Deployed, Start, start_of
from ppipe.rollout.early import Early, forget_early, save_early
from ppipe.rollout.history import HistoryEntry, ModelFigures, now_text
from ppipe.rollout.live import FleetDown, LiveFleet
from ppipe.rollout.record import RolloutRecord
from ppipe.rollout.revisions import served_manifest
from ppipe.rollout.run import StepFailed, roll_out
from ppipe.serving import live_metrics
from ppipe.serving.here import is_here

LOOK_S = 1.0
Progress = Callable[[int, Sequence[Step]], None]
"""Hears how many of which steps are done."""

Rows = Mapping[str, live_metrics.ModelRow]
"""By model."""


def no_progress(done: int, steps: Sequence[Step]) -> None:
    """For who does not look."""


def require_running(deployed: Deployed) -> tuple[str, ...]:
    """The entries, of several, that do not answer. Raises FleetDown unless the deployment is served from this
    working folder, or by hosts that look at the fleet's folder.
    """
    start = start_of(deployed)
    _require_reached(deployed, start.manifest)
    served = deployed.revision(start.manifest), start.manifest
    with _fleet(deployed, start, served, served) as fleet:
        return fleet.require_entry()


def _require_reached(deployed: Deployed, manifest: DeploymentManifest) -> None:
    """Without a folder that hosts share, only servers of this one can be asked to load."""
    if deployed.fleet is not None:
        return
    elsewhere = [server for server in manifest.servers if not is_here(server.host)]
    if elsewhere:
        named = ", ".join(f"{server.name} ({server.host})" for server in elsewhere)
        raise FleetDown(
            f"{named}: on other hosts, which load what they are asked for through a folder that all of them "
            "share: give it with --fleet, here and to ppipe serve --host on each of them"
        )


def dry_run(
    deployed: Deployed, target: DeploymentManifest, wanted_rps: Mapping[str, float] | None = None
) -> tuple[Step, ...]:
    """The steps that a rollout would make now. Raises RolloutFault, FleetDown."""
    start = start_of(deployed)
    origin, wanted = deployed.revision(start.manifest), deployed.revision(target)
    with _fleet(deployed, start, (origin, start.manifest), (wanted, target)) as fleet:
        fleet.require_entry()
        now = fleet.situation()
        check_rollout(origin, wanted, now)
        return steps_to(wanted, now, wanted_rps)


def load_early(deployed: Deployed, target: DeploymentManifest) -> None:
    """Have servers begin to load what a rollout to `target` would load first, where that fits beside all that
    is there. No dispatcher uses it, and a rollout finds it loaded. Raises as perform.
    """
    with deployed.lock("ppipe operate: workers that a loss would need"):
        start = start_of(deployed)
        if start.stopped is not None or deployed.early is not None:
            return
        origin, wanted = deployed.revision(start.manifest), deployed.revision(target)
        with _fleet(deployed, start, (origin, start.manifest), (wanted, target)) as fleet:
            steps = steps_to(wanted, fleet.situation())
            first = next((step for step in steps if step.kind is StepKind.LOAD and not step.breaks), None)
            if first is None:
                return
            early = Early(target, run_of(deployed.answers), first.workers, {})
            save_early(early, deployed.workspace.root)
            logs_from = fleet.begin_load([wanted.workers[name] for name in first.workers])
            save_early(replace(early, logs_from=logs_from), deployed.workspace.root)


def unload_early(deployed: Deployed) -> None:
    """Have them unloaded again: they are not needed after all. What a rollout that was stopped may use is
    left to the one that takes it up. Raises as perform.
    """
    with deployed.lock("ppipe operate: workers that no loss needed"):
        start, early = start_of(deployed), deployed.early
        if early is None or start.stopped is not None:
            return
        origin, wanted = deployed.revision(start.manifest), deployed.revision(early.manifest)
        with _fleet(deployed, start, (origin, start.manifest), (wanted, early.manifest)) as fleet:
            fleet.begin_unload([wanted.workers[name] for name in early.workers if name not in origin.workers])
        forget_early(deployed.workspace.root)


def perform(
    deployed: Deployed,
    target: DeploymentManifest,
    cause: str,
    why: str,
    progress: Progress = no_progress,
    wanted_rps: Mapping[str, float] | None = None,
    before: Rows | None = None,
) -> HistoryEntry:
    """Roll out, and record it. before: what was served, where it was measured already. What was loaded early
    is used or unloaded. Raises RolloutFault, RolloutBusy, FleetDown, HistoryFault; StepFailed, recorded too,
    with the fleet where it was.
    """
    with deployed.lock(f"ppipe {cause}: revision {target.epoch}"):
        deployed.history.require_writable()
        start = start_of(deployed)
        deployed.kept.keep_served(start.manifest)
        origin, wanted = deployed.revision(start.manifest), deployed.revision(target)
        with _fleet(deployed, start, (origin, start.manifest), (wanted, target)) as fleet:
            silent = fleet.require_entry()
            now = fleet.situation()
            check_rollout(origin, wanted, now)
            served_before = figures(now, measured(target) if before is None else before)
            began_s = time.monotonic()
            record = RolloutRecord(
                target.deployment, origin.number, wanted.number, why, now_text(), (), run_of(deployed.answers)
            )
            failure: StepFailed | None = None
            try:
                settle = _settler(deployed, start.manifest, target)
                record = roll_out(
                    origin, wanted, fleet, deployed.workspace.root, record, progress, wanted_rps, settle
                )
            except StepFailed as failed:
                failure = failed
            took_s = time.monotonic() - began_s
            entry = HistoryEntry(
                at=record.began,
                deployment=target.deployment,
                cause=cause,
                why=why,
                origin=origin.number,
                target=wanted.number,
                outcome="done" if failure is None else str(failure),
                seconds=round(took_s, 2),
                steps=record.steps,
                before=served_before,
                after=_after(fleet, target),
                without=tuple(sorted({*silent, *fleet.dropped})),
            )
            deployed.history.add(entry)
            if failure is not None:
                raise failure
        return entry


def _after(fleet: LiveFleet, target: DeploymentManifest) -> dict[str, ModelFigures]:
    """Nothing where that is not known: what was done is recorded all the same."""
    try:
        return figures(fleet.situation(), measured(target))
    except (FleetDown, OSError, serial.FormatError):
        return {}


def _settler(deployed: Deployed, *manifests: DeploymentManifest) -> Callable[[int], None]:
    """Makes one of these revisions the one that servers begin with, once the fleet has it alone."""
    by_number = {manifest.epoch: manifest for manifest in manifests}

    def settle(number: int) -> None:
        if served_manifest(deployed.repository) != by_number[number]:
            grow(deployed.repository, {}, {MANIFEST_NAME: serial.dumps(by_number[number])})
        forget_early(deployed.workspace.root)

    return settle


def measured(manifest: DeploymentManifest, look_s: float = LOOK_S) -> Rows:
    """What each model does for `look_s`; without those whose dispatchers do not show it."""
    looks = {entry.model: _look(manifest, entry.model) for entry in manifest.models}
    time.sleep(look_s)
    rows = {}
    for model, look in looks.items():
        before, after = live_metrics.together(look, _look(manifest, model))
        if after.series:
            rows[model] = live_metrics.model_row(model, before, after)
    return rows


def figures(now: Situation, rows: Rows) -> dict[str, ModelFigures]:
    """As recorded: what each model's workers carry, and what was measured."""
    return {
        model: ModelFigures(
            capacity_rps=round(rate, 1),
            arrived_rps=round(rows[model].arrived_rps, 1) if model in rows else None,
            served_rps=round(rows[model].in_time_rps, 1) if model in rows else None,
        )
        for model, rate in capacities(now.tables, now.usable).items()
    }


def _look(manifest: DeploymentManifest, model: str) -> dict[str, live_metrics.Look]:
    try:
        return live_metrics.read_all(manifest, manifest.model(model))
    except OSError:
        return {}


def _fleet(
    deployed: Deployed,
    start: Start,
    origin: tuple[FleetRevision, DeploymentManifest],
    target: tuple[FleetRevision, DeploymentManifest],
) -> LiveFleet:
    early = deployed.early
    return LiveFleet(
        {server.name: deployed.models_of(server) for server in origin[1].servers},
        deployed.tables,
        deployed.answers,
        deployed.deployment.to_cluster(),
        origin,
        target,
        others=_others(deployed, start, target[1], early),
        logs_from=None if early is None else early.logs_from,
    )


def _others(
    deployed: Deployed, start: Start, target: DeploymentManifest, early: Early | None
) -> list[tuple[FleetRevision, DeploymentManifest]]:
    """Whose workers may be loaded: the revision to which a rollout went that was stopped, and what was
    loaded early.
    """
    found = [] if early is None else [early.manifest]
    if start.stopped is not None and start.stopped.target != target.epoch:
        found.append(deployed.kept.manifest(start.stopped.target))
    return [(deployed.revision(manifest), manifest) for manifest in found]
