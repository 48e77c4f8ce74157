"""The command line. `main` is what the installed program `ppipe` runs.

Rules: results go to standard output, all else to standard error. A fault in what the user gave is one clear
message and status 1; a wrong command line is status 2; a signal is 128 + its number. A traceback is a bug of
ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from ppipe.commands import (
    bench,
    compose,
    demo,
    diff,
    front,
    generate,
    history,
    kubernetes,
    lint,
    monitoring,
    operate,
    plan,
    profile,
    record,
    report,
    rollout,
    serve,
    simulate,
    status,
    units,
    watch,
)
from ppipe.console import err
from ppipe.signals import end_on_signals

_OURS = {"planner", "python_backend", "model_repo_generator", "ensembles", "ppipe"}
_STATUS_ERROR = 1
# Typer has brought its own click since 0.26, so the base class has no one place to import it from.
_WRONG_COMMAND_LINE: Any = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

app = typer.Typer(
    name="ppipe",
    help="Plan, generate, serve and measure pipeline-parallel inference on mixed GPU fleets, on Triton.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _paragraphs(text: str) -> list[str]:
    """Of a docstring, each as one line: a terminal breaks lines where it wants to."""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _add(command: Callable[..., None], **settings: Any) -> None:
    """A command whose list entry is the first sentence of its docstring."""
    text = _paragraphs(command.__doc__ or "")
    summary = text[0].split(". ")[0].rstrip(".") + "."
    app.command(help="\n\n".join(text), short_help=summary, **settings)(command)


_OWN_PARSER = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}
"""Of lint, whose parser has the options and the program's name."""
_COMMANDS: Sequence[Callable[..., None]] = (
    profile.profile,
    plan.plan,
    simulate.simulate,
    generate.generate,
    lint.lint,
    diff.diff,
    kubernetes.kubernetes,
    compose.compose,
    front.front,
    units.units,
    monitoring.monitoring,
    serve.serve,
    status.status,
    rollout.rollout,
    operate.operate,
    history.history,
    record.record,
    bench.bench,
    watch.watch,
    report.report,
    demo.demo,
)
for _command in _COMMANDS:
    _add(_command, **(_OWN_PARSER if _command is lint.lint else {}))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status."""
    end_on_signals()
    if os.getcwd() not in sys.path:
        # A deployment's factory may well be in a file beside it; an installed program does not look there.
        sys.path.append(os.getcwd())
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    command = typer.main.get_command(app)
    try:
        status = command.main(args=arguments, prog_name="ppipe", standalone_mode=False)
    except Exception as error:
        if isinstance(error, _WRONG_COMMAND_LINE):
            error.show()
            return int(error.exit_code)
        if not is_the_users(error):
            raise
        for line in str(error).splitlines() or [type(error).__name__]:
            err.print(f"ppipe: error: {line}", markup=False, soft_wrap=True)
        return _STATUS_ERROR
    return status if isinstance(status, int) else 0


def is_the_users(error: Exception) -> bool:
    """Whether an error speaks of what the user gave, so that its message is enough.

    Every exception class of ours does, and so do the system's about files and addresses.
    """
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _OURS
