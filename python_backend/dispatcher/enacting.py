"""Does what the scheduler core has decided: sends batches, gives frames up, keeps the core's next wake-up.

Rules
- By whose turn it is at the core alone.
- A batch whose frames are all answered is not sent: its end is brought to the next turn.
- A frame that the core gives up is offered again while that may help (dispatcher.offers), else to another
  entry (dispatcher.entries.passing), else answered with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from python_backend.dispatcher.brought import HopEnded
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.frames.frame_state import FrameState
from python_backend.dispatcher.frames.open_frames import OpenFrames
from python_backend.dispatcher.links.transfers import Transfers
from python_backend.dispatcher.metrics.budget import Budget
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.dispatcher.offers import Offers
from python_backend.dispatcher.tables.served_table import ServedTables
from python_backend.scheduler.actions import Action, Dispatch, Drop, DropReason
from python_backend.wire.clock import NEVER, now_us

_TIME_REASONS: Final = (DropReason.EXPIRED, DropReason.OVERLOAD, DropReason.FAILED, DropReason.NO_OWNER)
_TOO_SHORT: Final = (DropReason.EXPIRED, DropReason.OVERLOAD)
"""More time alone would help: no worker needs to come back, and no owner to be found."""


class Enacting:
    """See the module. It asks the clock itself: to sign and send a batch takes time."""

    def __init__(
        self,
        tables: ServedTables,
        frames: OpenFrames,
        offers: Offers,
        counts: Counts,
        budget: Budget,
        transfers: Transfers,
        passing: PassingOn | None,
        bring: Callable[[HopEnded], None],
    ) -> None:
        """bring: to the next turn."""
        self.wake_us = NEVER
        """When the core is to be told that its timer fired, on its own clock."""
        self._tables = tables
        self._frames = frames
        self._offers = offers
        self._counts = counts
        self._budget = budget
        self._transfers = transfers
        self._passing = passing
        self._bring = bring

    def act(self, actions: Sequence[Action], began_us: int) -> None:
        """began_us: when the core was asked."""
        self._counts.decided(now_us() - began_us)
        for action in actions:
            if isinstance(action, Dispatch):
                self._dispatch(action)
            elif isinstance(action, Drop):
                self._drop(action)
            else:
                self.wake_us = action.time_us

    def _dispatch(self, action: Dispatch) -> None:
        # A frame may have been answered meanwhile by an attempt that was given up too early.
        ticket, frames = action.ticket, self._frames.of(action.request_ids)
        if not frames:
            self._bring(HopEnded(ticket, now_us(), served=False))
            return
        self._counts.dispatched(len(frames))
        for frame in frames:
            frame.move(FrameState.SENT)
        sent_us, arrived_us = now_us(), [frame.arrived_us for frame in frames]
        table = self._tables.now
        table.hops.send(ticket, frames)
        # Its end, however soon it comes, has to wait for this turn to be over.
        self._budget.sent(ticket.batch_id, ticket.attempt, sent_us, arrived_us)
        table.under_way.sent(ticket, frames, sent_us)
        self._transfers.sent(table.entry.served, ticket, sum([len(frame.data) for frame in frames]))

    def _drop(self, action: Drop) -> None:
        frame = self._frames.find(action.request_id)
        if frame is None or frame.state is FrameState.PASSED:
            return  # the core was told that it is gone
        # A frame that is offered again is new to the core, and its time may be too short from the start.
        reason = action.reason
        if reason is DropReason.EXPIRED and frame.last_reason is not None:
            reason = frame.last_reason
        if reason is DropReason.FAILED and frame.came_too_late:
            reason = DropReason.OVERLOAD  # nothing has failed: links or workers had more to do than was known
        may_help = reason in _TIME_REASONS and (reason not in _TOO_SHORT or self._offers.has_more(frame))
        if may_help and self._offers.again(frame, now_us()):
            frame.last_reason = reason
            return
        if self._passing is None or not self._passing.rescue(frame, reason, now_us()):
            self._frames.drop(frame, reason)
