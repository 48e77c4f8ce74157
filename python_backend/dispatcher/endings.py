"""How batches end, and frames that were passed on to another entry: by the threads that waited for them.

Rules
- The core's turn is taken once for each end, when its frames are answered: what the core decides next finds
  them gone.
- A failed batch is tried again where another worker could do better; else its frames get the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from python_backend.dispatcher.brought import (
    FrameCameBack,
    FrameRefused,
    HopEnded,
    HopFailed,
    Item,
    LookAgain,
    OwnerHeard,
)
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.dispatcher.frames.open_frames import OpenFrames
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.dispatcher.turns import Turns
from python_backend.scheduler.actions import Ticket
from python_backend.wire.clock import NEVER, now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.transport import Outputs

_NEVER_AGAIN: Final = (FailureKind.REFUSED, FailureKind.COMPUTE)
"""Another worker would do the same: the request or the program is at fault."""


class Ends:
    """See the module. Thread-safe."""

    def __init__(
        self, turns: Turns[Item], frames: OpenFrames, counts: Counts, log: Callable[[str], None]
    ) -> None:
        self._turns = turns
        self._frames = frames
        self._counts = counts
        self._log = log

    def served(self, ticket: Ticket, frames: Sequence[Frame], outputs: Outputs) -> None:
        """The last stage has answered."""
        self._turns.leave(HopEnded(ticket, now_us(), served=True))
        self._frames.serve(frames, outputs, ticket.batch_id)
        self._take_turn()

    def failed(self, ticket: Ticket, frames: Sequence[Frame], failure: HopFailure) -> None:
        """The attempt has come to nothing."""
        self._counts.failed(failure.kind)
        self._log(f"batch {ticket.batch_id} attempt {ticket.attempt} failed: {failure}")
        if failure.kind in _NEVER_AGAIN:
            self._turns.leave(HopEnded(ticket, now_us(), served=False))
            self._frames.fail(frames, str(failure))
            self._take_turn()
        else:
            self._turns.bring(HopFailed(ticket, frames, failure))

    def served_elsewhere(self, frame: Frame, outputs: Outputs) -> None:
        """See dispatcher.entries.passing.Returns."""
        self._frames.serve([frame], outputs)
        self._take_turn()

    def refused_elsewhere(self, frame: Frame, code: ErrorCode, text: str) -> None:
        """See dispatcher.entries.passing.Returns."""
        self._turns.bring(FrameRefused(frame, code, text))

    def came_back(self, frame: Frame) -> None:
        """See dispatcher.entries.passing.Returns."""
        self._turns.bring(FrameCameBack(frame))

    def owner_heard(self) -> None:
        """See dispatcher.entries.passing.Returns."""
        self._turns.bring(OwnerHeard())

    def _take_turn(self) -> None:
        # Answers that wait for others of their streams have a time at which they wait no longer: another
        # thread may have had its turn before they began to wait.
        if self._frames.due_us != NEVER:
            self._turns.leave(LookAgain())
        self._turns.take_turn()
