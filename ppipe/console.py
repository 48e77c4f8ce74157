"""What the commands show while they work: on standard error, live on a terminal and in plain lines
elsewhere.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from planner.deployment import Deployment
from ppipe.serving.supervisor import ServerState, ServerStatus

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)

_COLOURS = {
    ServerState.SERVING: "green",
    ServerState.FAILED: "bold red",
    ServerState.WAITING: "yellow",
    ServerState.STOPPED: "dim",
}


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    started = time.monotonic()
    err.print(f"[bold]{title}[/bold]")
    yield
    err.print(f"  [dim]{time.monotonic() - started:.1f} s[/dim]")


def note_overrides(deployment: Deployment) -> None:
    """Say where what a model states wins over its preset."""
    for model in deployment.models:
        for line in () if model.preprocess is None else model.preprocess.overrides():
            err.print(f"  note: models.{model.name}.preprocess: {line}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress_bar(title: str, total: int | None = None) -> Iterator[Callable[[str, int, int | None], None]]:
    """Gives `update(text, done, total)`."""
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=total)

        def update(text: str, done: int, of: int | None) -> None:
            progress.update(task, description=text or title, completed=done, total=of)

        yield update


class ServerBoard:
    """The states of a deployment's servers. A context; `changed` may be called from any thread."""

    def __init__(self) -> None:
        self._statuses: dict[str, ServerStatus] = {}
        self._lock = threading.Lock()
        self._live = Live(console=err, refresh_per_second=4, transient=False) if err.is_terminal else None

    def __enter__(self) -> ServerBoard:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, status: ServerStatus) -> None:
        """Show the new state of one server."""
        with self._lock:
            before = self._statuses.get(status.name)
            self._statuses[status.name] = status
            if self._live is not None:
                self._live.update(status_table(list(self._statuses.values())))
            elif before is None or (before.state, before.detail) != (status.state, status.detail):
                detail = f": {status.detail}" if status.detail else ""
                err.print(f"  {status.name}: {status.state.value}{detail}", markup=False)


def status_table(statuses: list[ServerStatus]) -> Table:
    """One row per server."""
    table = Table(box=None, padding=(0, 2, 0, 2))
    for heading in ("server", "state", "answering", "restarts", "pid", "note"):
        table.add_column(heading)
    for status in sorted(statuses, key=lambda status: status.name):
        colour = _COLOURS.get(status.state, "")
        table.add_row(
            status.name,
            f"[{colour}]{status.state.value}[/{colour}]" if colour else status.state.value,
            f"{status.answering} of {status.models}",
            str(status.restarts),
            "" if status.pid is None else str(status.pid),
            status.detail.partition("\n")[0].replace("[", "\\["),
        )
    return table
