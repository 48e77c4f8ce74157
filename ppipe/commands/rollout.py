"""rollout: from the plan that is served to another one, while frames come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from planner import serial
from planner.deployment import load_deployment
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.rollout.check import RolloutFault
from planner.rollout.steps import Step
from ppipe.commands.arguments import DeploymentFile, FleetFolder, WorkFolder
from ppipe.console import err, out
from ppipe.rollout.deployed import Deployed, start_of
from ppipe.rollout.preparing import make_ready, prepare
from ppipe.rollout.rollout import dry_run, perform, require_running
from ppipe.rollout.text import figures_text, silent_text, step_text, steps_table
from ppipe.workspace import MissingResult, Workspace


def rollout(
    deployment_file: DeploymentFile,
    plan: Annotated[Path | None, typer.Option(help="The plan.", show_default="<work>/plan.json")] = None,
    to: Annotated[
        int | None, typer.Option(min=1, help="Go to a revision that was served, in place of a plan.")
    ] = None,
    dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the steps, how long each takes and what is served meanwhile."),
    ] = False,
    work: WorkFolder = None,
    fleet: FleetFolder = None,
) -> None:
    """Change a running deployment to another plan: load what is new, hand dispatchers their table, unload
    what nobody uses. Stopped at any step, it goes on when it is called again, or back with --to.
    """
    deployed = deployed_from(deployment_file, work, fleet)
    for silent in require_running(deployed):
        err.print(f"  {silent_text(silent)}", markup=False)
    start = start_of(deployed)
    if start.stopped is not None:
        stopped = start.stopped
        err.print(
            f"  the rollout from revision {stopped.origin} to {stopped.target} was stopped at step "
            f"{stopped.done + 1} of {len(stopped.steps)}: {stopped.doing or 'between two'}",
            markup=False,
        )
    target = _target(deployed, plan, to, dry)
    if dry:
        steps = dry_run(deployed, target)
        out.print(steps_table(steps) if steps else f"revision {target.epoch} is what is served")
        return
    entry = perform(deployed, target, "rollout", "asked", progress=_show)
    out.print(figures_text(entry), markup=False, soft_wrap=True)


def deployed_from(deployment_file: Path, work: Path | None, fleet: Path | None = None) -> Deployed:
    """What a deployment file names, as it is served. Raises MissingResult."""
    deployment = load_deployment(deployment_file)
    workspace = Workspace.of(deployment.name, work)
    return Deployed(deployment, workspace.load_profile(), workspace, deployment_file.parent, fleet)


def _target(deployed: Deployed, plan: Path | None, to: int | None, dry: bool) -> DeploymentManifest:
    """What is to be served. dry: it is not kept as a revision."""
    if to is not None:
        if plan is not None:
            raise RolloutFault("--plan and --to: give one of the two")
        return deployed.kept.manifest(to)
    stopped = start_of(deployed).stopped
    if plan is None and stopped is not None:
        return deployed.kept.manifest(stopped.target)
    wanted = deployed.workspace.load_plan() if plan is None else _load_plan(plan)
    number = deployed.kept.next_number(start_of(deployed).manifest.epoch)
    return replace(make_ready(deployed, wanted), epoch=number) if dry else prepare(deployed, wanted, number)


def _load_plan(path: Path) -> Plan:
    if not path.is_file():
        raise MissingResult(f"--plan: {path} is not there; make it with ppipe plan")
    return serial.load(Plan, path)


def _show(done: int, steps: Sequence[Step]) -> None:
    if done == 0:
        err.print(steps_table(steps))
    else:
        err.print(f"  {done} of {len(steps)} done: {step_text(steps[done - 1])}", markup=False)
