"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.deployment import DeploymentError

DeploymentFile = Annotated[Path, typer.Argument(help="The deployment file, YAML.", show_default=False)]
WorkFolder = Annotated[
    Path | None, typer.Option("--work", help="Working folder.", show_default=".ppipe/<deployment's name>")
]
FleetFolder = Annotated[
    Path | None,
    typer.Option(
        "--fleet",
        help="The folder that all hosts share, as given to ppipe serve.",
        show_default="all servers run here",
    ),
]
ArrivalsText = Annotated[
    str, typer.Option(help="poisson, gamma:cv=2, mmpp:burst=3, cameras:fps=30, trace:path=FILE.")
]


def require_suffix(option: str, path: Path | None, *allowed: str) -> None:
    """Asked before the work whose picture `path` is to hold. Raises DeploymentError."""
    if path is not None and path.suffix not in allowed:
        raise DeploymentError(f"{option}: {str(path)!r} does not end in {' or '.join(allowed)}")
