"""units: from a generated repository to a systemd unit for each host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppipe.commands.orchestrator import Force, manifest_in
from ppipe.console import out


def units(
    repository: Annotated[Path, typer.Argument(help="Folder of a generated repository.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write.", show_default="units beside it")
    ] = None,
    ppipe: Annotated[Path, typer.Option(help="The program on every host.")] = Path("/opt/ppipe/bin/ppipe"),
    repository_there: Annotated[
        Path | None,
        typer.Option(
            "--repository",
            help="The repository on every host.",
            show_default="/srv/ppipe/<deployment>/repository",
        ),
    ] = None,
    ticket_keys: Annotated[
        Path | None,
        typer.Option(help="The ticket keys on every host.", show_default="/etc/ppipe/<deployment>.keys"),
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(help="As of ppipe serve: the folder that all hosts share.", show_default=False),
    ] = None,
    user: Annotated[str, typer.Option(help="Whose processes all are; not root.")] = "ppipe",
    old_triton: Annotated[
        bool,
        typer.Option("--old-triton", help="As of ppipe serve: releases with known holes may be started."),
    ] = False,
    force: Force = False,
) -> None:
    """Write a systemd unit for each host, which runs `ppipe serve --host` with no more rights than it takes.

    See docs/hosts.md.
    """
    from model_repo_generator.systemd import UnitOptions, render_units
    from model_repo_generator.writing.write import write

    options = UnitOptions(
        ppipe=ppipe,
        repository=repository_there,
        ticket_keys=ticket_keys,
        user=user,
        old_triton=old_triton,
        fleet=fleet,
    )
    folder = output or repository.resolve().parent / "units"
    write(render_units(manifest_in(repository), options), folder, force)
    out.print(str(folder), soft_wrap=True)
