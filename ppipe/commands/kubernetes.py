"""kubernetes: from a generated repository to a kustomize bundle that starts its servers."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

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
from ppipe.console import err, out, step
from ppipe.workspace import Workspace


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
    from model_repo_generator.kubernetes import load_options, notes, render_bundle
    from model_repo_generator.kubernetes.addresses import suggested_cluster
    from model_repo_generator.writing.write import write

    deployment = load_deployment(deployment_file)
    if hosts:
        suggested = {"cluster": suggested_cluster(deployment)}
        out.print(yaml.safe_dump(suggested, sort_keys=False), markup=False, soft_wrap=True, end="")
        return
    options = load_options(options_file, **given_of(image=image, namespace=namespace))
    workspace = Workspace.of(deployment.name, work)
    folder = output or workspace.root / "kubernetes"
    with step("kubernetes: render the bundle"):
        manifest = manifest_in(repository or workspace.repository)
        plan = placed_plan(workspace, deployment)
        write(render_bundle(manifest, deployment, plan, options), folder, force)
        for note in notes(manifest, deployment, plan, options):
            err.print(f"note: {note}", markup=False, soft_wrap=True)
    out.print(str(folder), soft_wrap=True)
