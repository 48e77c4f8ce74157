"""lint: check a repository without a server."""

from __future__ import annotations

import typer


def lint(context: typer.Context) -> None:
    """Check any Triton model repository, or a generated folder, without a server."""
    from model_repo_generator.lint import command

    raise typer.Exit(command.main(context.args))
