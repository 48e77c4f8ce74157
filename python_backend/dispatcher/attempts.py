"""How the attempts of batches go: what stages tell of them, how they end, and workers that are lost and come
back.

Rules
- By whose turn it is at the core alone. Only `Deciding` asks the clock here: all else is told the time.
- Each batch belongs to the table that sent it (dispatcher.tables.served_table), whose core is told its end.
- A failed batch goes back to the core of the table that is served, as it is or, where that core does not know
  its frames, as frames that are offered again.
- A lost worker gets nothing more, and the batches that it still owes to others are given up: only another
  attempt can be in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from python_backend.dispatcher.brought import HopEnded, HopFailed, WorkerChange
from python_backend.dispatcher.deciding import Deciding
from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.frames.frame_state import FrameState
from python_backend.dispatcher.lateness import Lateness
from python_backend.dispatcher.links.transfers import Transfers
from python_backend.dispatcher.metrics.budget import Budget
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.dispatcher.offers import Offers
from python_backend.dispatcher.tables.served_table import ServedTable, ServedTables
from python_backend.scheduler.actions import DropReason, Ticket
from python_backend.scheduler.events import BatchFailed, StageCompleted, WorkerBack, WorkerLost, Yielded
from python_backend.wire.feedback import Notice
from python_backend.wire.hop_failure import FailureKind, HopFailure

_ANSWERING_US: Final = 1_000
"""From a batch's answer here to a frame's answer at its client, on a host with something to do."""


class Attempts:
    """See the module."""

    def __init__(
        self,
        tables: ServedTables,
        offers: Offers,
        deciding: Deciding,
        lateness: Lateness,
        counts: Counts,
        budget: Budget,
        transfers: Transfers,
        on_failure: Callable[[HopFailure], None],
        on_seen: Callable[[str], None],
    ) -> None:
        """on_failure, on_seen: for who looks after the workers."""
        self._tables = tables
        self._offers = offers
        self._deciding = deciding
        self._lateness = lateness
        self._counts = counts
        self._budget = budget
        self._transfers = transfers
        self._on_failure = on_failure
        self._on_seen = on_seen
        self._changes: dict[str, int] = {}
        """By worker, the number of what was last said of it."""

    def heard(self, notice: Notice, now_us: int) -> None:
        """A stage has told that its compute ended."""
        table = self._tables.with_batch(notice.batch)
        known = table.under_way.find(notice.batch)
        if not notice.ok or known is None:
            return
        ticket, frames = known
        if notice.stage < len(ticket.hops):
            worker = ticket.hops[notice.stage].worker
            self._on_seen(worker)
            table.drift.saw(ticket.pipeline, notice.stage, frames, notice.busy_us, now_us)
            self._counts.stage_ended(worker, notice.busy_us)
            ended_us = now_us if notice.ended_us is None else notice.ended_us
            table.under_way.heard(ticket, notice.stage, ended_us, now_us)
            place, last = (ticket.pipeline, notice.stage), notice.stage == len(ticket.hops) - 1
            self._budget.ended(notice.batch, notice.attempt, place, ended_us, last)
            self._deciding.tell(table, StageCompleted(notice.batch, notice.attempt, notice.stage, ended_us))

    def ended(self, end: HopEnded) -> None:
        """The attempt of a batch is over, and its frames are answered."""
        ticket = end.ticket
        table = self._tables.with_batch(ticket.batch_id)
        known = table.under_way.over(ticket)
        self._transfers.over(ticket.batch_id)
        if end.served and not known.abandoned and table is self._tables.now:
            late_us = end.ended_us + _ANSWERING_US - ticket.answer_us - table.core.guard_us
            self._lateness.saw(late_us, end.ended_us)
        last = len(ticket.hops) - 1
        self._deciding.tell(table, StageCompleted(ticket.batch_id, ticket.attempt, last, end.ended_us))

    def failed(self, failed: HopFailed, now_us: int) -> None:
        """The attempt of a batch has failed: another one, unless its frames are served already."""
        if failed.failure.kind is FailureKind.FENCED:
            self._deciding.handle(Yielded())  # another entry owns what it was sent to, or will in a moment
        self._on_failure(failed.failure)  # first, so that what failed is not chosen for the next attempt
        ticket = failed.ticket
        table = self._tables.with_batch(ticket.batch_id)
        known = table.under_way.over(ticket)
        self._transfers.over(ticket.batch_id)
        if known.abandoned:
            self._tables.leave_if_over(table)
            return
        if not known.computed:
            for frame in failed.frames:
                frame.came_too_late = failed.failure.kind is FailureKind.EXPIRED
            self._give_back(table, ticket, failed.frames, failed.failure.hop, now_us)
            return
        # For the core the batch was done when its last stage was, so its frames are new to it.
        self._tables.leave_if_over(table)
        self.offer_again(failed.frames, now_us)

    def offer_again(self, frames: Sequence[Frame], now_us: int) -> None:
        """Frames that the core does not know, or no more."""
        for frame in frames:
            if not frame.answered:
                self._deciding.handle(self._offers.offer(frame, now_us))

    def changed(self, change: WorkerChange, now_us: int) -> None:
        """A worker is lost or back, unless something newer was said of it."""
        if change.number and change.number < self._changes.get(change.worker, 0):
            return
        self._changes[change.worker] = change.number
        if change.is_lost:
            self._lose(change.worker, now_us)
        else:
            self._take_back(change.worker, now_us)

    @property
    def look_us(self) -> int:
        """When to look for silent workers."""
        return min([table.under_way.look_us for table in self._tables.all()])

    def look_for_silent(self, now_us: int) -> None:
        """Workers that owe something for too long are lost."""
        for table in self._tables.all():
            if table.under_way.look_us > now_us:
                continue
            for silent in table.under_way.silent(now_us, self._lateness.allowance_us(now_us)):
                text = f"silent for {now_us - silent.since_us} us with a batch to end"
                failure = HopFailure(FailureKind.OVERDUE, silent.stage, silent.worker, text)
                self._counts.failed(failure.kind)
                self._on_failure(failure)
                self._lose(silent.worker, now_us)

    def _lose(self, worker: str, now_us: int) -> None:
        for table in self._tables.all():
            if table.core.knows(worker):
                self._deciding.tell(table, WorkerLost(worker))
        for table in self._tables.all():
            for ticket in table.under_way.abandon(worker):
                self._give_back(table, ticket, table.under_way.frames_of(ticket), 0, now_us)

    def _take_back(self, worker: str, now_us: int) -> None:
        for table in self._tables.all():
            if table.core.knows(worker):
                table.under_way.back(worker, now_us)
                self._deciding.tell(table, WorkerBack(worker))

    def _give_back(
        self, table: ServedTable, ticket: Ticket, frames: Sequence[Frame], hop: int, now_us: int
    ) -> None:
        """A batch has failed: the core has its frames again that have no answer yet."""
        failed = BatchFailed(ticket.batch_id, ticket.attempt, hop)
        if table is self._tables.now:
            for frame in frames:
                if not frame.answered and frame.state is FrameState.SENT:
                    frame.move(FrameState.QUEUED)
            self._deciding.handle(failed)
            return
        self._deciding.tell(table, failed)
        for frame in frames:
            frame.last_reason = frame.last_reason or DropReason.FAILED
        self.offer_again([frame for frame in frames if frame.state is FrameState.SENT], now_us)
