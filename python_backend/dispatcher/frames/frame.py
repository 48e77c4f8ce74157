"""One request as the dispatcher holds it: a frame, its deadline, and the one answer that it will get."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from python_backend.dispatcher.frames.frame_state import MOVES, FrameState, IllegalMove
from python_backend.scheduler.actions import DropReason
from python_backend.wire.kserve import Array
from python_backend.wire.ragged import FrameInfo


class ErrorCode(Enum):
    """The kinds of error that a client can get; adapters map them to Triton's."""

    UNAVAILABLE = "unavailable"
    """Not served: too late, too much load, no worker. The text says which."""
    INVALID = "invalid"
    """The request is wrong."""
    INTERNAL = "internal"
    """We are."""


LAST_RANK: Final = 2
"""The highest rank that a frame can have (Frame.rank)."""
SendOutputs = Callable[[Mapping[str, Array]], None]
SendError = Callable[[ErrorCode, str], None]


class Frame:
    """A request with exactly one answer: whoever comes first sends, later ones are told so. Thread-safe.

    A frame that is forgotten answers with an error when it is collected: a silent one would hang its caller.
    """

    __slots__ = (
        "_answered",
        "_is_cancelled",
        "_lock",
        "arrived_us",
        "asked_after_us",
        "caller",
        "came_too_late",
        "data",
        "deadline_us",
        "info",
        "last_reason",
        "offered_us",
        "offered_whole",
        "offers",
        "passed",
        "patient",
        "place",
        "priority",
        "rank",
        "request_id",
        "send_error",
        "send_outputs",
        "state",
        "stays",
        "stream",
    )  # fmt: skip

    def __init__(
        self,
        request_id: int,
        data: memoryview,
        arrived_us: int,
        deadline_us: int,
        send_outputs: SendOutputs,
        send_error: SendError,
        priority: int = 0,
        is_cancelled: Callable[[], bool] = lambda: False,
        info: FrameInfo | None = None,
        stream: str = "",
        place: int = -1,
        stays: bool = False,
        caller: str = "",
    ) -> None:
        """info: of a frame that is to be prepared by the first stage's host. stream, place: as its client
        says, '' for none and -1 for the next one. stays: whether another entry has passed it on. caller:
        where the front says so, else ''.
        """
        self._lock = threading.Lock()
        self._answered = False
        self.request_id = request_id
        self.data = data
        self.info = info
        self.arrived_us = arrived_us
        self.deadline_us = deadline_us
        self.priority = priority
        self.stream = stream
        self.place = place
        self.send_outputs = send_outputs
        self.send_error = send_error
        self._is_cancelled = is_cancelled
        self.state = FrameState.NEW
        """Where it is (dispatcher.frames.frame_state), but for ANSWERED: that is `answered`."""
        self.asked_after_us = 0
        """How long it had waited when its caller was last asked about."""
        self.offers = 0
        """Times that the core was given this frame."""
        self.offered_us = 0
        """The deadline that the core was last given for it."""
        self.offered_whole = False
        """Whether that was with all its time."""
        self.stays = stays
        """Whether no other entry may get it: one has passed it on."""
        self.passed = False
        """Whether another entry has, or had, it that could be reached: it gets no other."""
        self.caller = caller
        self.rank = 0
        """For who has sent it: those of a higher rank go after it, among its priority's (frames.room)."""
        self.patient = False
        """Whether it found room as a patient frame (frames.room)."""
        self.came_too_late = False
        """Whether its last attempt ended for want of time alone: it reached a stage too late."""
        self.last_reason: DropReason | None = None
        """Why the core gave it up the last time."""

    def move(self, state: FrameState) -> None:
        """Go on. Only by whose turn it is. Raises IllegalMove for a move that the table does not have."""
        if (self.state, state) not in MOVES:
            raise IllegalMove(f"frame {self.request_id} cannot go from {self.state.value} to {state.value}")
        self.state = state

    @property
    def waits(self) -> bool:
        """Whether nothing was begun for it that has not failed: its caller may still take it back."""
        return not self._answered and self.state is not FrameState.SENT

    @property
    def answered(self) -> bool:
        """Whether an answer was sent, or is being sent."""
        return self._answered

    def claim(self) -> bool:
        """True for the first caller only, who must then send the answer."""
        with self._lock:
            first, self._answered = not self._answered, True
        return first

    def ask_cancelled(self) -> bool:
        """Whether the caller has gone; False once answered. Never asked while an answer is sent: Triton frees
        the request with it.
        """
        with self._lock:
            return not self._answered and self._is_cancelled()

    def __del__(self) -> None:
        if not self._answered and self.claim():
            self.send_error(ErrorCode.INTERNAL, "the request was lost inside the dispatcher")
