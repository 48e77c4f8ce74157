"""generate: from a plan to model repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.deployment import Deployment, load_deployment
from planner.plan import Plan
from planner.profile import Profile
from ppipe.commands.arguments import DeploymentFile, WorkFolder
from ppipe.console import err, out, step
from ppipe.workspace import Workspace


def generate(
    deployment_file: DeploymentFile,
    work: WorkFolder = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. [default: <work>/repository]")
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite files of ours that were edited since.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; status 1 and a diff if the folder is out of date.")
    ] = False,
    programs: Annotated[
        bool, typer.Option(help="Export the stage programs (with --check: look at their files).")
    ] = True,
    epoch: Annotated[int, typer.Option(min=1, help="Revision of the plan.")] = 1,
    beside: Annotated[
        bool, typer.Option("--beside", help="As the next revision, beside the one in the folder.")
    ] = False,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="With a copy of the run time for the servers.")
    ] = False,
    one_folder: Annotated[
        bool,
        typer.Option("--one-folder", help="One repository for all GPU classes, with configs/<class>.pbtxt."),
    ] = False,
) -> None:
    """Write one Triton model repository per server group, and the manifest of all names and addresses."""
    from model_repo_generator.beside import generate_beside
    from model_repo_generator.generate import generate as write_repository

    deployment = load_deployment(deployment_file)
    workspace = Workspace.of(deployment.name, work)
    folder = output or workspace.repository
    profile, plan = workspace.load_profile(), workspace.load_plan()
    if check:
        _require_current(deployment, profile, plan, folder, deployment_file.parent, programs)
        return
    with step("generate: export programs, write repositories"):
        if beside:
            manifest = generate_beside(
                deployment, profile, plan, folder, force=force, export=programs, base=deployment_file.parent
            )
        else:
            manifest = write_repository(
                deployment,
                profile,
                plan,
                folder,
                epoch=epoch,
                force=force,
                export=programs,
                base=deployment_file.parent,
                self_contained=self_contained,
                one_folder=one_folder,
            )
    servers = [server for server in (manifest.entry, *manifest.servers) if server.models]
    err.print(f"  {sum(len(server.models) for server in servers)} Triton models on {len(servers)} servers")
    out.print(str(folder), soft_wrap=True)


def _require_current(
    deployment: Deployment, profile: Profile, plan: Plan, folder: Path, base: Path, programs: bool
) -> None:
    """Show how `folder` differs from what the plan gives, and end with status 1 if it does."""
    from model_repo_generator.check import check, format_differences

    differences = check(deployment, profile, plan, folder, base=base, programs=programs)
    if differences:
        out.print(format_differences(differences), markup=False, soft_wrap=True)
        raise typer.Exit(1)
    err.print(f"{folder} is what the plan gives", markup=False, soft_wrap=True)
