"""What the core of another table is told before it serves: what the one before has learned, until when
workers are taken, and then the frames that wait.

Rules
- Only the new core is touched here. Where it cannot take over, the one before serves on as if nothing had
  been tried.
- What it answers is enacted once it serves, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from python_backend.dispatcher.tables.served_table import ServedTable, ServedTables, holds_by
from python_backend.scheduler.actions import Action
from python_backend.scheduler.events import Event, RequestArrived, WorkerLost, WorkerTaken


@dataclass(frozen=True)
class Handled:
    """What a core was told, one event or frames that came together, and what it answered."""

    told: Event | Sequence[RequestArrived]
    actions: Sequence[Action]


@dataclass(frozen=True)
class TableFailed:
    """A table that was not taken, by the number of its hand-over. reason: for who handed it over."""

    number: int
    reason: str


def take_over(tables: ServedTables, table: ServedTable, core_time_us: int) -> list[Handled]:
    """Have the core of `table` know what that of the table that is served has learned; frames come after
    that. Raises whatever the core raises.
    """
    before, core = tables.now.core, table.core
    core.number_from(before.next_batch_id)
    told = [
        event
        for event in before.legacy()
        if not isinstance(event, WorkerLost | WorkerTaken) or core.knows(event.worker)
    ]
    told += holds_by(tables.all(), core)
    return [Handled(event, core.handle(event, core_time_us)) for event in told]
