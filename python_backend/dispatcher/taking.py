"""Takes what threads have brought to a turn, item by item, and before each of them what is due by then.

Rules
- By whose turn it is at the core alone.
- Arrivals that come one after the other are offered together.
- An item that fails is logged; those after it are taken all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from python_backend.dispatcher.attempts import Attempts
from python_backend.dispatcher.brought import (
    FrameCameBack,
    FrameRefused,
    FramesCame,
    FramesRefused,
    HopEnded,
    HopFailed,
    Item,
    LookAgain,
    OwnerHeard,
    ProbeCame,
    WorkerChange,
)
from python_backend.dispatcher.deciding import Deciding
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.frames.frame_state import FrameState
from python_backend.dispatcher.frames.open_frames import OpenFrames
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.dispatcher.offers import Offers
from python_backend.dispatcher.recording import WantedRecording
from python_backend.dispatcher.tables.served_table import ServedTable, ServedTables
from python_backend.dispatcher.tables.taking_over import TableChange
from python_backend.scheduler.actions import DropReason
from python_backend.scheduler.events import RequestCancelled
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import Notice

_MOST_TOGETHER: Final = 256
"""Arrivals that are offered to the core at once."""
_Taken = TypeVar("_Taken")


class Taking:
    """See the module. It reads the clock once for each item, and tells the time to who is asked."""

    def __init__(
        self,
        tables: ServedTables,
        frames: OpenFrames,
        offers: Offers,
        deciding: Deciding,
        attempts: Attempts,
        change: TableChange,
        counts: Counts,
        passing: PassingOn | None,
        log: Callable[[str], None],
    ) -> None:
        self._tables = tables
        self._frames = frames
        self._offers = offers
        self._deciding = deciding
        self._attempts = attempts
        self._change = change
        self._counts = counts
        self._passing = passing
        self._log = log

    def take(self, items: Sequence[Item]) -> int:
        """Take what has come; returns when to look again."""
        arrived: list[Frame] = []
        for item in items:
            if isinstance(item, FramesCame):
                arrived += item.frames
            else:
                self._guarded(self._take, item)
            if len(arrived) >= _MOST_TOGETHER:
                self._guarded(self._take_arrivals, arrived)
                arrived = []
        if arrived or not items:  # what is due was looked for before each of the others
            self._guarded(self._take_arrivals, arrived)
        return min(self._deciding.wake_us, self._attempts.look_us, self._offers.next_us, self._frames.due_us)

    def _guarded(self, take: Callable[[_Taken], None], what: _Taken) -> None:
        # One bad event must not take the others along.
        try:
            self._take_what_is_due()
        except Exception as error:
            self._log(f"timers failed: {error!r}")
        try:
            take(what)
        except Exception as error:
            self._log(f"scheduling failed on {type(what).__name__}: {error!r}")

    def _take_what_is_due(self) -> None:
        self._deciding.fire_if_due()
        host_us = now_us()
        self._attempts.look_for_silent(host_us)
        if self._frames.due_us <= host_us:
            for lost in self._frames.overtaken(host_us):
                if lost.state is FrameState.QUEUED:
                    self._deciding.handle(RequestCancelled(lost.request_id))
                elif lost.state is FrameState.PASSED and self._passing is not None:
                    self._passing.give_up(lost)
        while self._offers.next_us <= host_us:
            frame = self._frames.find(self._offers.take_next())
            if frame is not None and frame.state is FrameState.PAUSED:
                self._deciding.handle(self._offers.offer(frame, host_us))
                self._look_for_owner(frame)

    def _take(self, item: Item) -> None:
        if isinstance(item, Notice):
            self._attempts.heard(item, now_us())
        elif isinstance(item, HopEnded):
            self._attempts.ended(item)
        elif isinstance(item, HopFailed):
            self._attempts.failed(item, now_us())
            self._look_for_owners()
        elif isinstance(item, FramesRefused):
            self._counts.arrived += item.frames
            for _ in range(item.frames):
                self._counts.dropped(DropReason.OVERLOAD)
        elif isinstance(item, ProbeCame):
            self._frames.answer_probe(item.frame)
        elif isinstance(item, WorkerChange):
            self._attempts.changed(item, now_us())
        elif isinstance(item, RequestCancelled):
            self._take_cancelled(item)
        elif isinstance(item, FrameCameBack):
            self._attempts.offer_again([item.frame], now_us())
            self._look_for_owner(item.frame)
        elif isinstance(item, OwnerHeard):
            self._look_for_owners()
        elif isinstance(item, FrameRefused):
            self._frames.relay(item.frame, item.code, item.text)
        elif isinstance(item, ServedTable):
            self._change.take(item, self._deciding.core_time_us)
            self._look_for_owners()
        elif isinstance(item, WantedRecording):
            self._deciding.record(item)
        elif not isinstance(item, FramesCame | LookAgain):
            self._deciding.handle(item)

    def _take_arrivals(self, frames: Sequence[Frame]) -> None:
        """Frames that came together are offered together: they can share a batch."""
        if not frames:
            return
        self._frames.add(frames)
        self._counts.arrived += len(frames)
        self._counts.frame_bytes += sum([len(frame.data) for frame in frames])
        table, began_us = self._tables.now, now_us()
        table.frame_drift.saw(frames, began_us)
        if self._passing is not None:
            frames = self._passing.keep(frames, table.core, began_us)
        self._deciding.handle_arrivals([self._offers.offer(frame, began_us) for frame in frames], began_us)
        if self._passing is not None and table.core.awaits_owner:
            for frame in frames:
                self._look_for_owner(frame)

    def _look_for_owners(self) -> None:
        """Of all frames that wait, oldest first."""
        if self._passing is not None and self._tables.now.core.awaits_owner:
            for frame in self._frames.all():
                self._look_for_owner(frame)

    def _look_for_owner(self, frame: Frame) -> None:
        """While nothing is owned here, a frame that waits goes to another owner as soon as there is one; one
        that another entry has passed on goes back there at once, which looks for itself.
        """
        if self._passing is None or not self._tables.now.core.awaits_owner:
            return
        if frame.state is not FrameState.QUEUED or frame.answered:
            return
        if frame.stays:
            self._frames.drop(frame, DropReason.NO_OWNER)
        elif not self._passing.pass_on(frame, now_us()):
            return
        self._deciding.handle(RequestCancelled(frame.request_id))

    def _take_cancelled(self, cancelled: RequestCancelled) -> None:
        frame = self._frames.find(cancelled.request_id)
        if frame is not None and frame.state in (FrameState.PAUSED, FrameState.PASSED):
            self._frames.drop(frame, DropReason.CANCELLED)
            if self._passing is not None:
                self._passing.give_up(frame)
        else:
            self._deciding.handle(cancelled)
