"""A rollout from the revision that is served to another, whole: prepared, checked, made, recorded.

Rules
- All that can be refused is refused before anything is touched; what preparing adds to the repository is
  harmless without a table that names it.
- Only one acts at a time (ppipe.rollout.lock), and what cannot be recorded is not done.
- deployment.json becomes the new revision's last of all: servers that are started anew serve that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_repo_generator import naming
from model_repo_generator.export import Exporter, hashes, planned_programs
from model_repo_generator.generate import placed, render_once
from model_repo_generator.grow import grow
from model_repo_generator.write import Content, FileCopy, WrittenFile, read_listing
from planner import serial
from planner.deployment import Deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ServerAddress
from planner.plan import Plan
from planner.profile import Profile
from planner.revision import read_hand_over, run_of
from planner.rollout.check import RolloutFault, check_rollout
from planner.rollout.fleet import FleetRevision, Situation
from planner.rollout.steps import Step, StepKind, steps_to
from planner.rollout.tables import capacities
from ppipe.rollout.early import Early, forget_early, load_saved, save_early
from ppipe.rollout.history import History, HistoryEntry, ModelFigures, now_text
from ppipe.rollout.live import FleetDown, LiveFleet
from ppipe.rollout.lock import LOCK_NAME, rollout_lock
from ppipe.rollout.record import RolloutRecord, load_record
from ppipe.rollout.revisions import (
    KeptRevisions,
    fleet_revision,
    reader_of,
    served_manifest,
    with_idle_servers,
)
from ppipe.rollout.run import StepFailed, roll_out
from ppipe.serving import live_metrics
from ppipe.serving.here import is_here
from ppipe.serving.launcher import REVISIONS
from ppipe.serving.polled_folder import PolledFolder
from ppipe.serving.server_models import AskedModels, HereModels, ServerModels
from ppipe.workspace import Workspace

LOOK_S = 1.0
UNNUMBERED = 1
"""The number of a revision that is not kept yet; it is in no name and no worker's file."""
Progress = Callable[[int, Sequence[Step]], None]
"""Hears how many of which steps are done."""


Rows = Mapping[str, live_metrics.ModelRow]
"""By model."""


def no_progress(done: int, steps: Sequence[Step]) -> None:
    """For who does not look."""


@dataclass(frozen=True)
class Deployed:
    """A deployment that runs. base: folder that relative paths of the deployment file start from. fleet: the
    folder through which servers of other hosts are asked; None: all servers run here.
    """

    deployment: Deployment
    profile: Profile
    workspace: Workspace
    base: Path = Path()
    fleet: Path | None = None

    @property
    def repository(self) -> Path:
        """From which its servers load."""
        return self.workspace.repository

    @property
    def tables(self) -> Path:
        """Where its dispatchers look for tables."""
        return self.fleet or self.workspace.logs.resolve() / REVISIONS

    @property
    def kept(self) -> KeptRevisions:
        """Its revisions."""
        return KeptRevisions(self.workspace.root)

    @property
    def history(self) -> History:
        """What was done to it."""
        return History(self.workspace.root)

    @property
    def early(self) -> Early | None:
        """What may be loaded early on its servers."""
        return load_saved(self.workspace.root, run_of(self.tables))

    @contextlib.contextmanager
    def lock(self, what: str, name: str = LOCK_NAME) -> Iterator[None]:
        """Hold the lock of its working folder, and of the folder that its hosts share: others may roll out
        from another working folder. Raises RolloutBusy, OSError.
        """
        with contextlib.ExitStack() as held:
            for folder in (self.workspace.root, *([] if self.fleet is None else [self.fleet])):
                held.enter_context(rollout_lock(folder, what, name))
            yield

    def models_of(self, server: ServerAddress) -> ServerModels:
        """The models of one of its servers, as they are changed."""
        if self.fleet is not None:
            return AskedModels(self.fleet, server.name)
        logs = self.workspace.logs
        folder = PolledFolder(logs / "models" / server.name, self.repository, server.repository)
        return HereModels(folder, logs / f"{server.name}.log")

    def revision(self, manifest: DeploymentManifest) -> FleetRevision:
        """As rollouts reckon with it. Raises RolloutFault."""
        cluster = self.deployment.to_cluster()
        return fleet_revision(manifest, reader_of(self.repository), self.profile, cluster)


@dataclass(frozen=True)
class Start:
    """From where a rollout goes. stopped: the one that was not ended, which left the fleet in between."""

    manifest: DeploymentManifest
    stopped: RolloutRecord | None = None


def start_of(deployed: Deployed) -> Start:
    """The revision that is served; of a rollout that was stopped, the one from which it came."""
    table = read_hand_over(deployed.tables) if deployed.tables.is_dir() else None
    generated = served_manifest(deployed.repository)
    record = load_record(deployed.workspace.root)
    if record is not None and record.was_stopped and record.began_with == run_of(deployed.tables):
        return Start(deployed.kept.manifest(record.origin), record)
    if table is None or table.manifest.epoch == generated.epoch:
        return Start(generated)
    return Start(deployed.kept.manifest(table.manifest.epoch))


def prepare(deployed: Deployed, plan: Plan, number: int) -> DeploymentManifest:
    """Give the repository what the plan needs, and keep it as revision `number`. Raises PlanFault,
    RolloutFault, WriteFault, ExportFault.
    """
    plan = placed(plan, deployed.deployment, deployed.profile)
    manifest = replace(make_ready(deployed, plan), epoch=number)
    deployed.kept.keep(manifest, plan)
    return manifest


def make_ready(deployed: Deployed, plan: Plan) -> DeploymentManifest:
    """Give the repository what the plan needs; the manifest, which has no number yet. Raises as prepare."""
    if deployed.deployment.cascades:
        raise RolloutFault(
            "cascades: their parts of the SLO follow from the plan, and a running dispatcher takes no other "
            "SLO; generate and serve anew"
        )
    plan = placed(plan, deployed.deployment, deployed.profile)
    served = served_manifest(deployed.repository)
    with Exporter(deployed.deployment, deployed.profile) as exporter:
        programs = _programs(deployed, plan, exporter)
        known = {path: file.sha256 for path, file in _listed(deployed.repository).items()}
        rendered = render_once(
            deployed.deployment,
            deployed.profile,
            plan,
            epoch=UNNUMBERED,
            base=deployed.base,
            program_hashes={**known, **hashes(programs)},
        )
        cluster = deployed.deployment.to_cluster()
        wanted = fleet_revision(rendered.manifest, rendered.files.get, deployed.profile, cluster)
        check_rollout(deployed.revision(served), wanted, Situation({}, frozenset(), wanted.workers))
        files: dict[str, Content] = {
            path: text for path, text in rendered.files.items() if _is_of_a_stage(path)
        }
        files.update({path: FileCopy(file) for path, file in programs.items()})
        grow(deployed.repository, files)
    return with_idle_servers(rendered.manifest, served, deployed.repository)


def require_running(deployed: Deployed) -> None:
    """Raises FleetDown unless the deployment is served from this working folder, or by hosts that look at the
    fleet's folder.
    """
    start = start_of(deployed)
    _require_reached(deployed, start.manifest)
    served = deployed.revision(start.manifest), start.manifest
    with _fleet(deployed, start, served, served) as fleet:
        fleet.require_entry()


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
            early = Early(target, run_of(deployed.tables), first.workers, {})
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
            fleet.require_entry()
            now = fleet.situation()
            check_rollout(origin, wanted, now)
            served_before = figures(now, measured(target) if before is None else before)
            began_s = time.monotonic()
            record = RolloutRecord(
                target.deployment, origin.number, wanted.number, why, now_text(), (), run_of(deployed.tables)
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
                after=figures(fleet.situation(), measured(target)),
            )
            deployed.history.add(entry)
            if failure is not None:
                raise failure
        return entry


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
        again = _look(manifest, model)
        if look is not None and again is not None:
            rows[model] = live_metrics.model_row(model, look, again)
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


def _look(manifest: DeploymentManifest, model: str) -> live_metrics.Look | None:
    try:
        return live_metrics.read(manifest, manifest.model(model))
    except OSError:
        return None


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
        deployed.deployment.to_cluster(),
        origin,
        target,
        others=_others(deployed, start, target[1], early),
        logs_from=None if early is None else early.logs_from,
    )


def _others(
    deployed: Deployed, start: Start, target: DeploymentManifest, early: Early | None
) -> list[FleetRevision]:
    """Whose workers may be loaded: the revision to which a rollout went that was stopped, and what was
    loaded early.
    """
    found = [] if early is None else [early.manifest]
    if start.stopped is not None and start.stopped.target != target.epoch:
        found.append(deployed.kept.manifest(start.stopped.target))
    return [deployed.revision(manifest) for manifest in found]


def _programs(deployed: Deployed, plan: Plan, exporter: Exporter) -> Mapping[str, Path]:
    """Those of splits that the repository does not list; any plan of a split needs the same. What is there
    and not listed, as a rollout that was killed leaves it, is taken as it is; the rest is exported.
    """
    listed = _listed(deployed.repository)
    wanted = planned_programs(deployed.deployment, deployed.profile, plan)
    unlisted = [each for each in wanted if each.list_path not in listed]
    there = {each: {path: deployed.repository / path for path in each.paths} for each in unlisted}
    whole = [each for each, files in there.items() if all(file.is_file() for file in files.values())]
    found = {path: file for each in whole for path, file in there[each].items()}
    return {**found, **exporter.programs(each for each in unlisted if each not in whole)}


def _listed(repository: Path) -> Mapping[str, WrittenFile]:
    listing = read_listing(repository)
    return {} if listing is None else listing.files


def _is_of_a_stage(path: str) -> bool:
    return path.startswith(f"{naming.GROUPS}/") and not path.startswith(
        f"{naming.group_folder(naming.ENTRY_GROUP)}/"
    )
