"""diff: what becomes of each Triton model from one plan or repository to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppipe.console import out


def diff(
    old: Annotated[Path, typer.Argument(help="A plan file, or the folder of a generated repository.")],
    new: Annotated[Path, typer.Argument(help="Another of the same kind.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Tell what becomes of each Triton model from one plan or repository to another."""
    from model_repo_generator.checking.diff import diff as rows_of
    from model_repo_generator.checking.diff import format_table

    out.print(format_table(rows_of(old, new), markdown=markdown), end="", markup=False, soft_wrap=True)
