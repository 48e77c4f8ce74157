"""status: ask every server of a deployment, from any terminal, whether its models answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from planner.manifest import DeploymentManifest, ServerAddress
from ppipe.commands.arguments import WorkFolder
from ppipe.commands.serve import folders
from ppipe.console import out
from ppipe.launcher import load_manifest, tls_of
from ppipe.probe import Probe, Prober, Verdict

TIMEOUT_S = 3.0


def status(
    what: Annotated[Path, typer.Argument(help="A deployment file, or the folder of a generated repository.")],
    work: WorkFolder = None,
) -> None:
    """Show which servers of a deployment answer, model by model; status 1 unless all do."""
    repository, _ = folders(what, work)
    manifest = load_manifest(repository)
    table = Table(box=None, padding=(0, 2, 0, 2))
    for heading in ("server", "address", "answering", "first that does not"):
        table.add_column(heading)
    whole = True
    for server in (manifest.entry, *manifest.servers):
        if server.models:
            silent = silent_models(manifest, server)
            whole = whole and not silent
            table.add_row(*_row(server, silent))
    out.print(table)
    if not whole:
        raise typer.Exit(1)


def silent_models(manifest: DeploymentManifest, server: ServerAddress) -> dict[str, Probe]:
    """The models of a server that do not answer, and what their probes say.

    What leads to a dispatcher is given a frame that it must decline: that shows that it lives, at no worker's
    expense. Stages are probed without holding their workers.
    """
    dispatched = {
        name
        for entry in manifest.models
        for name in (entry.dispatcher, entry.ensemble, entry.tensor_ensemble)
        if entry.dispatcher
    }
    silent = {}
    with Prober(f"{server.host}:{server.grpc_port}", tls=tls_of(manifest, server)) as prober:
        for model in server.models:
            ask = prober.ask_hopeless if model in dispatched else prober.ask
            probe = ask(model, TIMEOUT_S)
            if probe.verdict is not Verdict.ANSWERS:
                silent[model] = probe
    return silent


def _row(server: ServerAddress, silent: dict[str, Probe]) -> tuple[str, str, str, str]:
    first = next((f"{model}: {probe.detail or probe.verdict.value}" for model, probe in silent.items()), "")
    answering = f"{len(server.models) - len(silent)} of {len(server.models)}"
    return server.name, f"{server.host}:{server.grpc_port}", answering, first.replace("[", "\\[")
