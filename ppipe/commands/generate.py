"""generate: from a plan to model repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model_repo_generator.checking.fit import check_pipelines
from model_repo_generator.checking.on_disk import check as check_repository
from model_repo_generator.checking.on_disk import format_differences
from model_repo_generator.checking.stale import StalePlan, changed_since
from model_repo_generator.export import Exporter
from model_repo_generator.generate import generate as write_repository
from model_repo_generator.rehearsal import Rehearsal, RehearsalFault, rehearsed
from planner import serial
from planner.deployment import Deployment, load_deployment
from planner.deployment.asked import is_searched, margins_are_open
from planner.plan import Plan
from planner.profile import Profile
from ppipe.commands.arguments import DeploymentFile, WorkFolder
from ppipe.console import err, note_overrides, out, step
from ppipe.wording import counted
from ppipe.workspace import MissingResult, Workspace


def generate(
    deployment_file: DeploymentFile,
    work: WorkFolder = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write.", show_default="<work>/repository")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files of ours that were edited since.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; status 1 and a diff if the folder is out of date.")
    ] = False,
    no_programs: Annotated[
        bool,
        typer.Option("--no-programs", help="Export no programs; with --check: look at none of their files."),
    ] = False,
    epoch: Annotated[int, typer.Option(min=1, help="Revision of the plan.")] = 1,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="With a copy of the run time for the servers.")
    ] = False,
    one_folder: Annotated[
        bool,
        typer.Option("--one-folder", help="One repository for all GPU classes, with configs/<class>.pbtxt."),
    ] = False,
    rehearse: Annotated[
        str | None,
        typer.Option(
            help="For this machine, without the plan's GPUs: 'emulated' holds workers for the profiled time, "
            "'cpu' runs the real programs. Written to <work>/rehearsal.",
            show_default=False,
        ),
    ] = None,
    workers_per_pool: Annotated[
        int | None,
        typer.Option(help="In a rehearsal, at most so many workers of each stage.", show_default="all"),
    ] = None,
    slower: Annotated[
        float, typer.Option(help="In a rehearsal, all times and SLOs are so many times as long.")
    ] = 1.0,
) -> None:
    """Write one Triton model repository per server group, and the manifest of all names and addresses."""
    deployment = load_deployment(deployment_file)
    workspace = Workspace.of(deployment.name, work)
    profile, plan = workspace.load_profile(), workspace.load_plan()
    folder = output or (workspace.repository if rehearse is None else workspace.rehearsal)
    _require_made_for_this(deployment, profile, plan, workspace, check)
    made_for = _made_for(deployment, profile, plan, rehearse, workers_per_pool, slower)
    base = deployment_file.parent
    note_overrides(deployment)
    if check:
        _require_current(*made_for, folder, base, not no_programs)
        return
    # Blocks are cut alike for a rehearsal, so its programs are those of the deployment file.
    with (
        step(f"generate: {'' if no_programs else 'export programs, '}write repositories"),
        Exporter(deployment, profile) as exporter,
    ):
        manifest = write_repository(
            *made_for,
            folder,
            epoch=epoch,
            force=force,
            export=not no_programs,
            base=base,
            self_contained=self_contained,
            one_folder=one_folder,
            exporter=exporter,
        )
    servers = [server for server in manifest.every_server if server.models]
    models = sum(len(server.models) for server in servers)
    err.print(f"  {counted(models, 'Triton model')} on {counted(len(servers), 'server')}")
    out.print(str(folder), soft_wrap=True)


def _made_for(
    deployment: Deployment,
    profile: Profile,
    plan: Plan,
    rehearse: str | None,
    workers_per_pool: int | None,
    slower: float,
) -> tuple[Deployment, Profile, Plan]:
    """What to generate from: the files' own, or a rehearsal of them. Raises RehearsalFault, PlanFault."""
    if rehearse is None:
        if workers_per_pool is not None or slower != 1.0:
            raise RehearsalFault("--workers-per-pool and --slower belong to --rehearse")
        return deployment, profile, plan
    check_pipelines(deployment, profile, plan)
    how = Rehearsal(executor=rehearse, workers_per_pool=workers_per_pool, slower=slower)
    return rehearsed(deployment, profile, plan, how)


def _require_made_for_this(
    deployment: Deployment, profile: Profile, plan: Plan, workspace: Workspace, check: bool
) -> None:
    """Tell what has changed since the plan was made; with `check`, that is a fault. Raises StalePlan."""
    try:
        problem = workspace.load_problem()
    except MissingResult:
        return  # a plan that was brought here alone: checks.check_pipelines says what it can
    if serial.content_hash(problem) != plan.problem_hash:
        return  # of another plan
    now = deployment.to_problem(profile)
    if is_searched(problem, plan, deployment, now):
        return
    changes = changed_since(problem, now, margins_are_open(deployment))
    stale = [change for change in changes if not change.on_purpose]
    if stale and check:
        raise StalePlan(stale)
    for change in changes:
        err.print(f"  note: {change.to_text()}", markup=False, soft_wrap=True)


def _require_current(
    deployment: Deployment, profile: Profile, plan: Plan, folder: Path, base: Path, programs: bool
) -> None:
    """Show how `folder` differs from what the plan gives, and end with status 1 if it does."""
    differences = check_repository(deployment, profile, plan, folder, base=base, programs=programs)
    if differences:
        out.print(format_differences(differences), markup=False, soft_wrap=True)
        raise typer.Exit(1)
    err.print(f"{folder} is what the plan gives", markup=False, soft_wrap=True)
