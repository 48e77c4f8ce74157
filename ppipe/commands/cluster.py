"""kubernetes, compose: from a generated repository to the files that start its servers elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from planner import serial
from planner.deployment import Deployment, load_deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan
from ppipe.commands.arguments import DeploymentFile, WorkFolder
from ppipe.console import out, step
from ppipe.workspace import MissingResult, Workspace

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.")]
Repository = Annotated[
    Path | None, typer.Option(help="The generated repository. [default: <work>/repository]")
]
Image = Annotated[str | None, typer.Option(help="Image with tritonserver and the run time.")]
OptionsFile = Annotated[Path | None, typer.Option("--options", help="All other choices, YAML.")]
Force = Annotated[bool, typer.Option(help="Overwrite files of ours that were edited since.")]


def kubernetes(
    deployment_file: DeploymentFile,
    work: WorkFolder = None,
    repository: Repository = None,
    output: Output = None,
    image: Image = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace of all objects.")] = None,
    options_file: OptionsFile = None,
    hosts: Annotated[
        bool, typer.Option("--hosts", help="Only print the addresses that deployment.yaml should have.")
    ] = False,
    force: Force = False,
) -> None:
    """Write a kustomize bundle that starts the servers of a plan in a Kubernetes cluster.

    Default output: <work>/kubernetes.
    """
    from model_repo_generator.kubernetes import load_options, render_bundle
    from model_repo_generator.kubernetes.addresses import suggested_cluster
    from model_repo_generator.write import write

    deployment = load_deployment(deployment_file)
    if hosts:
        suggested = {"cluster": suggested_cluster(deployment)}
        out.print(yaml.safe_dump(suggested, sort_keys=False), markup=False, soft_wrap=True, end="")
        return
    options = load_options(options_file, **_given(image=image, namespace=namespace))
    workspace = Workspace.of(deployment.name, work)
    folder = output or workspace.root / "kubernetes"
    with step("kubernetes: render the bundle"):
        manifest = _manifest(repository or workspace.repository)
        write(render_bundle(manifest, deployment, _plan(workspace, deployment), options), folder, force)
    out.print(str(folder), soft_wrap=True)


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
    from model_repo_generator.write import write

    deployment = load_deployment(deployment_file)
    workspace = Workspace.of(deployment.name, work)
    folder = output or workspace.root / "compose"
    source = repository or workspace.repository
    given = {"repository": str(Path(os.path.realpath(source))), **_given(image=image)}
    options = load_compose_options(options_file, **given)
    with step("compose: render the file"):
        plan = _plan(workspace, deployment)
        write(render_compose(_manifest(source), deployment, plan, options), folder, force)
    out.print(str(folder), soft_wrap=True)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _manifest(repository: Path) -> DeploymentManifest:
    path = repository / MANIFEST_NAME
    if not path.is_file():
        raise MissingResult(f"{path} is not there yet; make it with ppipe generate")
    return serial.load(DeploymentManifest, path)


def _plan(workspace: Workspace, deployment: Deployment) -> Plan:
    """As `ppipe generate` took it."""
    from model_repo_generator.generate import placed

    return placed(workspace.load_plan(), deployment, workspace.load_profile())
