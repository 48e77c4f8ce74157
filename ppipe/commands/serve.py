"""serve: run the generated deployment here until it is told to stop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from planner.deployment import load_deployment
from ppipe.commands.arguments import WorkFolder
from ppipe.console import ServerBoard, err
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.neighbours import Neighbours
from ppipe.workspace import Workspace
from python_backend.wire.signing.keys import Keys


def serve(
    what: Annotated[Path, typer.Argument(help="A deployment file, or the folder of a generated repository.")],
    work: WorkFolder = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after this long.", show_default="when told to")
    ] = None,
    record_mb: Annotated[
        float,
        typer.Option(min=0.0, help="Record each dispatcher's events from its start, at most so many MB."),
    ] = 0.0,
    host: Annotated[
        str | None,
        typer.Option(
            help="Start the servers of this host alone; 'auto': those with addresses of this machine."
        ),
    ] = None,
    ticket_keys: Annotated[
        Path | None, typer.Option(help="With --host: the file of ticket keys that all hosts have.")
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(
            help="A folder that all hosts share, through which ppipe rollout and operate ask for changes.",
            show_default="they run here",
        ),
    ] = None,
    old_triton: Annotated[
        bool,
        typer.Option(
            "--old-triton", help="Start releases with known holes on addresses that others reach, too."
        ),
    ] = False,
) -> None:
    """Start every tritonserver of a local deployment, or of this host, keep them running, and stop them on
    Ctrl-C.
    """
    repository, logs = folders(what, work)
    with (
        ServerBoard() as board,
        ServedDeployment(
            repository,
            logs,
            changed=board.changed,
            record_mb=record_mb,
            host=host,
            ticket_keys=ticket_keys,
            old_triton=old_triton,
            fleet=fleet,
        ) as served,
    ):
        served.start()
        if served.warning:
            err.print(f"warning: {served.warning}")
        with _told_of_others(served):
            _say_and_wait(served, seconds)


@contextlib.contextmanager
def _told_of_others(served: ServedDeployment) -> Iterator[None]:
    """While it lasts, what the servers of other hosts do is told."""
    if served.shared_keys is None:
        yield
        return
    others = Neighbours(
        served.manifest,
        served.servers,
        Keys(served.shared_keys),
        lambda line: err.print(line, markup=False, soft_wrap=True),
    )
    others.start()
    try:
        yield
    finally:
        others.stop()


def _say_and_wait(served: ServedDeployment, seconds: float | None) -> None:
    ways = "; ".join(
        f"gRPC {entry.grpc_address}, HTTP {entry.http_address}" for entry in served.manifest.entries
    )
    err.print(f"serving {', '.join(served.manifest.doors)}: {ways}; Ctrl-C stops it")
    wait(seconds)


def wait(seconds: float | None) -> None:
    """For so long, or until a signal ends the command.

    A second at a time: a signal that the system gives to another thread does not wake the main one.
    """
    until_s = math.inf if seconds is None else time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        time.sleep(min(1.0, left_s))


def folders(what: Path, work: Path | None) -> tuple[Path, Path]:
    """Repository and logs."""
    if what.is_dir():
        return what, (work or what.resolve().parent) / "logs"
    workspace = Workspace.of(load_deployment(what).name, work)
    return workspace.repository, workspace.logs
