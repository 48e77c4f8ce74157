"""record: have running dispatchers write down what their schedulers are told and decide."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from planner.deployment import DeploymentError
from ppipe.commands.arguments import WorkFolder
from ppipe.commands.serve import folders
from ppipe.console import err
from ppipe.serving.launcher import TICKET_KEY, load_manifest
from python_backend.dispatcher.recording import WantedRecording, encode
from python_backend.wire.signing.keys import KEY_FILE_VARIABLE, Keys
from python_backend.wire.sockets import resolved


def record(
    what: Annotated[Path, typer.Argument(help="A deployment file, or the folder of a generated repository.")],
    work: WorkFolder = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long.")] = 60.0,
    most_mb: Annotated[float, typer.Option(min=0.001, help="Stop at this size.")] = 64.0,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="The file of ticket keys.", show_default=f"${KEY_FILE_VARIABLE}, or those of serve"
        ),
    ] = None,
) -> None:
    """Record the events of running dispatchers, to replay them with `ppipe simulate --replay`.

    Each file is written on the entry server's host: in the logs folder of `ppipe serve`, else in
    $PPIPE_EVENT_LOGS or the folder for temporary files. The dispatcher's log names it.
    """
    repository, logs = folders(what, work)
    manifest = load_manifest(repository)
    known = [entry.model for entry in manifest.models]
    for name in model or ():
        if name not in known:
            raise DeploymentError(f"--model: {name!r} is not one of {', '.join(known)}")
    file = keys or Path(os.environ.get(KEY_FILE_VARIABLE) or logs / TICKET_KEY)
    signing = Keys(file)
    for at in manifest.entry_ports:
        family, _ = resolved(at.server.host, 0, socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for name, port in at.feedback_ports.items():
                if not model or name in model:
                    datagram = encode(WantedRecording(name, seconds, most_mb), signing)
                    sender.sendto(datagram, (at.server.host, port))
    for name in model or known:
        err.print(f"{name}: asked for {seconds:g} s, at most {most_mb:g} MB", markup=False)
