"""Where a frame is inside its dispatcher, and which way it may go: the one table of that.

    state    who has the frame                                        left when
    NEW      the adapter made it                                      it is offered to the core
    QUEUED   the core: it waits for a batch                           the core dispatches, or gives it up
    SENT     a batch that is under way                                its attempt fails: back to the core
    PAUSED   dispatcher.offers: the core gave it up, and it has       its pause is over: offered with a later
             more time than it was offered with                       deadline
    PASSED   another entry's dispatcher                               it cannot be reached: back to the core
    ANSWERED nobody: its one answer is sent, or being sent            never

- A frame may be answered in any state: by an attempt that was given up too early, by a drop, at the end.
- PASSED is entered from NEW or, when the core gave the frame up or nothing is owned here, from QUEUED; again
  only where the other entry could not be reached.
- QUEUED, SENT, PAUSED and PASSED are entered by whose turn it is (dispatcher.turns) alone; ANSWERED by any
  thread, through Frame.claim(), whose first caller sends the answer.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class FrameState(Enum):
    """See the module."""

    NEW = "new"
    QUEUED = "queued"
    SENT = "sent"
    PAUSED = "paused"
    PASSED = "passed"
    ANSWERED = "answered"

    __hash__ = object.__hash__  # Enum's own is interpreted, and MOVES is asked twice for every frame


MOVES: Final = frozenset(
    {
        (FrameState.NEW, FrameState.QUEUED),
        (FrameState.QUEUED, FrameState.SENT),
        (FrameState.QUEUED, FrameState.PAUSED),
        (FrameState.SENT, FrameState.QUEUED),
        (FrameState.PAUSED, FrameState.QUEUED),
        (FrameState.NEW, FrameState.PASSED),
        (FrameState.QUEUED, FrameState.PASSED),
        (FrameState.PASSED, FrameState.QUEUED),
    }
)
"""All moves but those to ANSWERED."""


class IllegalMove(RuntimeError):
    """A move that the table does not have: a fault of ours."""
