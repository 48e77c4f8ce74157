"""What the core of another table is told before it serves: what the one before has learned, until when
workers are taken, and then the frames that wait.

Rules
- Only the new core is touched here. Where it cannot take over, the one before serves on as if nothing had
  been tried.
- What it answers is enacted once it serves, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from python_backend.dispatcher.deciding import Deciding, Told
from python_backend.dispatcher.enacting import Enacting
from python_backend.dispatcher.frames.frame_state import FrameState
from python_backend.dispatcher.frames.open_frames import OpenFrames
from python_backend.dispatcher.frames.room import Room, bounds_of
from python_backend.dispatcher.offers import Offers
from python_backend.dispatcher.tables.served_table import ServedTable, ServedTables, holds_by
from python_backend.scheduler.actions import Action, DropReason
from python_backend.scheduler.events import RequestArrived, WorkerLost, WorkerTaken
from python_backend.wire.clock import now_us


@dataclass(frozen=True)
class Handled:
    """What a core was told, one event or frames that came together, and what it answered."""

    told: Told
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


class TableChange:
    """Another table is taken: frames that wait are offered to its core, batches under way end by the table
    that sent them. By whose turn it is at the core.
    """

    def __init__(
        self,
        tables: ServedTables,
        frames: OpenFrames,
        offers: Offers,
        deciding: Deciding,
        enacting: Enacting,
        room: Room,
        dispatchers: int,
        log: Callable[[str], None],
    ) -> None:
        """dispatchers: of the entry, which share its room."""
        self.failed: TableFailed | None = None
        """The last that could not be served, though it was handed over."""
        self._tables = tables
        self._frames = frames
        self._offers = offers
        self._deciding = deciding
        self._enacting = enacting
        self._room = room
        self._dispatchers = dispatchers
        self._log = log

    def take(self, table: ServedTable, core_time_us: int) -> None:
        """Where its core cannot take over, the table before goes on being served."""
        queued = [
            frame for frame in self._frames.all() if frame.state is FrameState.QUEUED and not frame.answered
        ]
        try:
            handled = self._told_to(table, [self._offers.repeat(frame) for frame in queued], core_time_us)
            whole = table.whole
            bounds = bounds_of(whole.served, whole.longest_us, table.time_us, self._dispatchers)
            self._serve_by(table)
        except Exception as error:
            self._serve_by(self._tables.now)
            self._log(f"table {table.number} is not taken: {error!r}")
            self.failed = TableFailed(table.number, f"its core cannot take over: {error!r}")
            self._tables.refuse(table)
            return
        before = self._tables.replace(table)
        self._room.bounds = bounds
        for frame in queued:
            # The core takes it for new, and might say that its time was too short from the start.
            frame.last_reason = frame.last_reason or DropReason.OVERLOAD
        self._deciding.begin_anew()
        for each in handled:
            self._deciding.note(each.told, core_time_us, each.actions)
        for each in handled:
            self._enacting.act(each.actions, now_us())
        self._tables.leave_if_over(before)

    def _told_to(self, table: ServedTable, frames: list[RequestArrived], time_us: int) -> list[Handled]:
        """What its core was told before it serves, the frames that wait last, and what it answered."""
        handled = take_over(self._tables, table, time_us)
        actions = self._deciding.answer(
            table.core,
            frames,
            time_us,
            lambda taken, _, answer: handled.append(Handled(taken, answer)),
        )
        return [*handled, Handled(frames, actions)]

    def _serve_by(self, table: ServedTable) -> None:
        self._offers.serve(table.entry, table.time_us)
        self._frames.serve_by(table.entry)
