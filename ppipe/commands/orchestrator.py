"""What `kubernetes` and `compose` share: options, and the repository and plan that they start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from planner import serial
from planner.deployment import Deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan
from ppipe.workspace import MissingResult, Workspace

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.")]
Repository = Annotated[
    Path | None, typer.Option(help="The generated repository.", show_default="<work>/repository")
]
Image = Annotated[str | None, typer.Option(help="Image with tritonserver and the run time.")]
OptionsFile = Annotated[Path | None, typer.Option("--options", help="All other choices, YAML.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files of ours that were edited since.")]


def given_of(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def manifest_in(repository: Path) -> DeploymentManifest:
    path = repository / MANIFEST_NAME
    if not path.is_file():
        raise MissingResult(f"{path} is not there yet; make it with ppipe generate")
    return serial.load(DeploymentManifest, path)


def placed_plan(workspace: Workspace, deployment: Deployment) -> Plan:
    """As `ppipe generate` took it."""
    from model_repo_generator.generate import placed

    return placed(workspace.load_plan(), deployment, workspace.load_profile())
