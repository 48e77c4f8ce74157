"""watch: frames of files, pictures and cameras to a served model; what it answers, live and as JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from ppipe.commands.arguments import WorkFolder
from ppipe.commands.serve import folders
from ppipe.console import err
from ppipe.serving.launcher import load_manifest
from ppipe.watch.pacing import SendPolicy
from ppipe.watch.sources import WatchError, parse_sources

if TYPE_CHECKING:
    from ppipe.watch.results import ResultFile

_SIGNALLED = 128
_FAILED = 1
DEFAULT_URL = "localhost:8001"


def watch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Video files, folders of pictures, rtsp:// or http:// addresses, /dev/video0; NAME=SOURCE "
            "names the stream.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="The served model to ask.", show_default=False)],
    url: Annotated[
        str | None,
        typer.Option(help="The entry server's gRPC address.", show_default=DEFAULT_URL),
    ] = None,
    deployment: Annotated[
        Path | None,
        typer.Option(help="In place of --url: the deployment file, or the folder of its repository."),
    ] = None,
    work: WorkFolder = None,
    fps: Annotated[
        list[str] | None,
        typer.Option(
            help="Send at most so many frames/s of each source, or NAME=FPS of one; may be repeated."
        ),
    ] = None,
    policy: Annotated[
        SendPolicy,
        typer.Option(help="skip: in time with the source, left out what is too fast; follow: every frame."),
    ] = SendPolicy.SKIP,
    ahead: Annotated[
        int, typer.Option(min=1, max=1000, help="Frames of a source that wait for answers at once.")
    ] = 8,
    timeout_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Of each frame.", show_default="the model's SLO")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Play files and folders again and again.")] = False,
    json_lines: Annotated[
        Path | None, typer.Option("--json", help="Write a line of JSON per frame here; - is standard output.")
    ] = None,
    annotate: Annotated[
        Path | None, typer.Option(help="Folder for annotated videos, one for each stream.")
    ] = None,
) -> None:
    """Send the frames of videos, pictures and cameras to a served model, and show what comes back.

    Ctrl-C ends it; files end by themselves. Status 1 if a source failed.
    """
    parsed = parse_sources(sources, fps or ())
    address, served = _address(url, deployment, work)
    try:
        from ppipe.watch.session import WatchOptions, watch
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise WatchError(
            "ppipe watch reads videos with PyAV, which is not here: pip install 'ppipe[video]'"
        ) from error
    options = WatchOptions(
        url=address,
        model=model,
        policy=policy,
        ahead=ahead,
        timeout_us=None if timeout_ms is None else round(1000 * timeout_ms),
        loop=loop,
        clips=annotate,
        served=served,
    )
    with _results(json_lines) as results, Live(console=err, auto_refresh=False) as live:
        ended = asyncio.run(watch(parsed, options, results, lambda table: live.update(table, refresh=True)))
    if ended.signal is not None:
        raise typer.Exit(_SIGNALLED + ended.signal)
    if any(stream.feed.failed for stream in ended.streams):
        raise typer.Exit(_FAILED)


def _address(url: str | None, deployment: Path | None, work: Path | None) -> tuple[str, tuple[str, ...]]:
    """Where the models are served, and which these are, as far as is known. Raises WatchError."""
    if url is not None and deployment is not None:
        raise WatchError("--url and --deployment: give one of them")
    if deployment is None:
        return url or DEFAULT_URL, ()
    manifest = load_manifest(folders(deployment, work)[0])
    return manifest.entry.grpc_address, manifest.doors


@contextlib.contextmanager
def _results(path: Path | None) -> Iterator[ResultFile | None]:
    from ppipe.watch.results import ResultFile

    if path is None:
        yield None
    elif str(path) == "-":
        yield ResultFile(sys.stdout)
    else:
        try:
            file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise WatchError(f"--json {path}: {error.strerror}") from error
        with file:
            yield ResultFile(file)
