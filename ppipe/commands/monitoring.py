"""monitoring: what Prometheus and Grafana need to watch what is served, outside Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppipe.commands.arguments import WorkFolder
from ppipe.commands.orchestrator import Force, Output
from ppipe.commands.serve import folders
from ppipe.console import out


def monitoring(
    what: Annotated[Path, typer.Argument(help="A deployment file, or the folder of a generated repository.")],
    work: WorkFolder = None,
    output: Output = None,
    interval: Annotated[str, typer.Option(help="Between two looks: 15s, 1m.")] = "15s",
    force: Force = False,
) -> None:
    """Write what Prometheus scrapes and alerts on, and a dashboard for Grafana.

    Default output: monitoring beside the repository. In Kubernetes `ppipe kubernetes` writes the same for the
    Prometheus operator.
    """
    from model_repo_generator.monitoring import render_prometheus
    from model_repo_generator.writing.write import write
    from ppipe.serving.launcher import load_manifest

    repository, _ = folders(what, work)
    folder = output or repository.parent / "monitoring"
    write(render_prometheus(load_manifest(repository), interval), folder, force)
    out.print(str(folder), soft_wrap=True)
