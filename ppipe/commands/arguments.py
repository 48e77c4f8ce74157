"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DeploymentFile = Annotated[Path, typer.Argument(help="The deployment file, YAML.", show_default=False)]
WorkFolder = Annotated[
    Path | None, typer.Option("--work", help="Working folder. [default: .ppipe/<deployment's name>]")
]
ArrivalsText = Annotated[
    str, typer.Option(help="poisson, gamma:cv=2, mmpp:burst=3, cameras:fps=30, trace:path=FILE.")
]
