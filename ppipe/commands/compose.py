"""compose: from a generated repository to a docker compose file that starts its servers on one host."""

from __future__ import annotations

import os
from pathlib import Path

from planner.deployment import load_deployment
from ppipe.commands.arguments import DeploymentFile, WorkFolder
from ppipe.commands.orchestrator import (
    Force,
    Image,
    OptionsFile,
    Output,
    Repository,
    given_of,
    manifest_in,
    placed_plan,
)
from ppipe.console import out, step
from ppipe.workspace import Workspace


def compose(
    deployment_file: DeploymentFile,
    work: WorkFolder = None,
    repository: Repository = None,
    output: Output = None,
    image: Image = None,
    options_file: OptionsFile = None,
    force: Force = False,
) -> None:
    """Write a docker compose file that starts the servers of a plan on one host.

    Default output: <work>/compose. The repository is mounted from where it is now.
    """
    from model_repo_generator.kubernetes import load_compose_options, render_compose
    from model_repo_generator.writing.write import write

    deployment = load_deployment(deployment_file)
    workspace = Workspace.of(deployment.name, work)
    folder = output or workspace.root / "compose"
    source = repository or workspace.repository
    given = {"repository": str(Path(os.path.realpath(source))), **given_of(image=image)}
    options = load_compose_options(options_file, **given)
    with step("compose: render the file"):
        plan = placed_plan(workspace, deployment)
        write(render_compose(manifest_in(source), deployment, plan, options), folder, force)
    out.print(str(folder), soft_wrap=True)
