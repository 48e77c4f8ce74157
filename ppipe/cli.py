"""The command line. `main` is what the installed program `ppipe` runs.

Rules: results go to standard output, all else to standard error. A fault in what the user gave is one clear
message and status 1; a wrong command line is status 2; a signal is 128 + its number. A traceback is a bug of
ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
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
app.command()(profile.profile)
app.command()(plan.plan)
app.command()(simulate.simulate)
app.command()(generate.generate)
app.command(
    # Its own parser has the options, and its own program name.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)(lint.lint)
app.command()(diff.diff)
app.command()(kubernetes.kubernetes)
app.command()(compose.compose)
app.command()(front.front)
app.command()(units.units)
app.command()(monitoring.monitoring)
app.command()(serve.serve)
app.command()(status.status)
app.command()(rollout.rollout)
app.command()(operate.operate)
app.command()(history.history)
app.command()(record.record)
app.command()(bench.bench)
app.command()(watch.watch)
app.command()(report.report)
app.command()(demo.demo)


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
