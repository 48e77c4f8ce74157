"""lint and diff: look at repositories and plans, change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppipe.console import out


def lint(context: typer.Context) -> None:
    """Check any Triton model repository, or a generated folder, without a server."""
    from model_repo_generator.lint import command

    raise typer.Exit(command.main(context.args))


def diff(
    old: Annotated[Path, typer.Argument(help="A plan file, or the folder of a generated repository.")],
    new: Annotated[Path, typer.Argument(help="Another of the same kind.")],
    markdown: Annotated[bool, typer.Option(help="As a Markdown table.")] = False,
) -> None:
    """Tell what becomes of each Triton model from one plan or repository to another."""
    from model_repo_generator.diff import diff as rows_of
    from model_repo_generator.diff import format_table

    out.print(format_table(rows_of(old, new), markdown=markdown), end="", markup=False, soft_wrap=True)
