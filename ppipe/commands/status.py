"""status: ask every server of a deployment, from any terminal, whether its models answer, and what its
dispatchers do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from planner.manifest import DeploymentManifest, ServerAddress
from ppipe.commands.arguments import WorkFolder
from ppipe.commands.serve import folders
from ppipe.console import out
from ppipe.serving.launcher import load_manifest
from ppipe.serving.live_metrics import (
    CASCADE_COUNTER,
    Look,
    cascade_row,
    model_row,
    read,
    read_all,
    read_cascade,
    read_cascades,
    together,
    worker_rows,
)
from ppipe.serving.load_tables import cascade_tables, fitting_tables, model_tables, worker_tables
from ppipe.serving.probe import ModelProber, Probe, ProbeVerdict

TIMEOUT_S = 3.0
_LOOK_S = 1.0
_HOST_HEADINGS = ("host", "its servers", "whole")
_ENTRY_HEADINGS = ("model", "entry", "owns of its shards", "passed on", "from others")
_CASCADE_HEADINGS = ("cascade", "entry", "frames", "complete", "partial", "open")
_SERVER_HEADINGS = ("server", "address", "answering", "first that does not")


def status(
    what: Annotated[Path, typer.Argument(help="A deployment file, or the folder of a generated repository.")],
    work: WorkFolder = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Then show load and workers, anew every second, until Ctrl-C.")
    ] = False,
) -> None:
    """Show which servers of a deployment answer, model by model, and their load; status 1 unless all do."""
    repository, _ = folders(what, work)
    manifest = load_manifest(repository)
    whole = show_servers(manifest)
    if watch:
        show_load_until_stopped(manifest)
    elif whole:
        out.print(*load_tables(manifest, looks(manifest), _LOOK_S))
    if manifest.more_entries:
        rows = list(_entry_rows(manifest))
        out.print(*fitting_tables(_ENTRY_HEADINGS, rows, out.width, left=_ENTRY_HEADINGS[:3]))
        if manifest.cascades:
            rows = list(cascade_entry_rows(manifest))
            out.print(*fitting_tables(_CASCADE_HEADINGS, rows, out.width, left=_CASCADE_HEADINGS[:2]))
    if not whole:
        raise typer.Exit(1)


def show_servers(manifest: DeploymentManifest) -> bool:
    """A row per server; whether all models answer."""
    servers = [server for server in manifest.every_server if server.models]
    silent = {server.name: silent_models(manifest, server) for server in servers}
    rows = [_row(server, silent[server.name]) for server in servers]
    out.print(*fitting_tables(_SERVER_HEADINGS, rows, out.width, left=_SERVER_HEADINGS))
    hosts = list(_host_rows(servers, silent))
    if len(hosts) > 1:
        out.print(*fitting_tables(_HOST_HEADINGS, hosts, out.width, left=_HOST_HEADINGS))
    return not any(silent.values())


def _host_rows(
    servers: Sequence[ServerAddress], silent: Mapping[str, Mapping[str, Probe]]
) -> Iterator[tuple[str, str, str]]:
    """Each host, its servers, and how many of them answer with all their models."""
    hosts: dict[str, list[ServerAddress]] = {}
    for server in servers:
        hosts.setdefault(server.host, []).append(server)
    for host, here in hosts.items():
        well = sum(not silent[server.name] for server in here)
        yield host, ", ".join(server.name for server in here), f"{well} of {len(here)}"


def _entry_rows(manifest: DeploymentManifest) -> Iterator[tuple[str, ...]]:
    """Each dispatcher of each entry: the shards that it owns with their terms, and frames so far."""
    for server in manifest.entries:
        seen = manifest.seen_from(server.name)
        for entry in seen.models:
            try:
                look = read(seen, entry)
            except OSError:
                yield entry.model, server.name, "does not answer", "", ""
                continue
            owned = look.values("ppipe_shard_term", "shard")
            shards = ", ".join(f"{shard} (term {term:.0f})" for shard, term in sorted(owned.items()))
            yield (
                entry.model,
                server.name,
                f"{shards or 'none'} of {len(entry.shards)}",
                f"{look.total('ppipe_passed_on_total'):.0f}",
                f"{look.total('ppipe_passed_here_total'):.0f}",
            )


def cascade_entry_rows(manifest: DeploymentManifest) -> Iterator[tuple[str, ...]]:
    """Each cascade at each entry: its frames so far, and how they ended."""
    for server in manifest.entries:
        seen = manifest.seen_from(server.name)
        for cascade in seen.cascades:
            try:
                look = read_cascade(seen, cascade)
            except OSError:
                yield cascade.name, server.name, "does not answer", "", "", ""
                continue
            ended = look.values("ppipe_cascade_ended_total", "end")
            yield (
                cascade.name,
                server.name,
                f"{look.total('ppipe_cascade_frames_total'):.0f}",
                *(f"{ended.get(end, 0.0):.0f}" for end in ("complete", "partial")),
                f"{look.total('ppipe_cascade_open_frames'):.0f}",
            )


Pages = Mapping[str, Mapping[str, Look]]
"""By model or cascade, and entry."""


def looks(manifest: DeploymentManifest) -> Pages:
    """The page of each dispatcher and each cascade that shows one."""
    found: dict[str, dict[str, Look]] = {}
    for entry in manifest.models:
        with contextlib.suppress(OSError):
            found[entry.model] = read_all(manifest, entry)
    for cascade in manifest.cascades:
        with contextlib.suppress(OSError):
            found[cascade.name] = read_cascades(manifest, cascade)
    return found


def load_tables(manifest: DeploymentManifest, before: Pages, wait_s: float) -> list[Table]:
    """What happens at all entries from `before` until `wait_s` seconds from now."""
    time.sleep(wait_s)
    after = looks(manifest)
    pairs = {
        entry.model: together(before.get(entry.model, {}), after.get(entry.model, {}))
        for entry in manifest.models
    }
    both = {model: pair for model, pair in pairs.items() if pair[1].series}
    models = [model_row(model, *pair) for model, pair in both.items()]
    workers = [row for model, pair in both.items() for row in worker_rows(model, *pair)]
    cascades = [
        (one, together(before.get(one.name, {}), after.get(one.name, {}), CASCADE_COUNTER))
        for one in manifest.cascades
    ]
    rows = [cascade_row(one, *pair) for one, pair in cascades if pair[1].series]
    tables = cascade_tables(rows, out.width) if rows else []
    if both:
        tables += [*model_tables(models, out.width), *worker_tables(workers, out.width)]
    return tables


def show_load_until_stopped(manifest: DeploymentManifest) -> None:
    """Draw the tables again and again."""
    before = looks(manifest)
    with Live(console=out, auto_refresh=False) as live:
        while True:
            live.update(Group(*load_tables(manifest, before, _LOOK_S)), refresh=True)
            before = looks(manifest)


def silent_models(manifest: DeploymentManifest, server: ServerAddress) -> dict[str, Probe]:
    """The models of a server that do not answer, and what their probes say.

    What leads to a dispatcher is given a frame that it must decline: that shows that it lives, at no worker's
    expense. Stages are probed without holding their workers.
    """
    bodies = (entry.body_ensemble for entry in manifest.models if entry.body_ensemble)
    dispatched = {*manifest.doors, *bodies}
    silent = {}
    with ModelProber(server.grpc_address, tls=manifest.tls_of(server)) as prober:
        for model in server.models:
            ask = prober.ask_hopeless if model in dispatched else prober.ask
            probe = ask(model, TIMEOUT_S)
            if probe.verdict is not ProbeVerdict.ANSWERS:
                silent[model] = probe
    return silent


def _row(server: ServerAddress, silent: dict[str, Probe]) -> tuple[str, str, str, str]:
    first = next((f"{model}: {probe.detail or probe.verdict.value}" for model, probe in silent.items()), "")
    answering = f"{len(server.models) - len(silent)} of {len(server.models)}"
    return server.name, server.grpc_address, answering, first.replace("[", "\\[")
