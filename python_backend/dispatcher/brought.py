"""What threads bring to a turn at the scheduler core (dispatcher.turns), beside the core's own events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.dispatcher.recording import WantedRecording
from python_backend.dispatcher.tables.served_table import ServedTable
from python_backend.scheduler.actions import Ticket
from python_backend.scheduler.events import Event
from python_backend.wire.feedback import Notice
from python_backend.wire.hop_failure import HopFailure


class FramesCame:
    """Frames that there is room for."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames: Final = frames


class FramesRefused:
    """So many frames were answered at once, for want of room."""

    def __init__(self, frames: int) -> None:
        self.frames: Final = frames


class ProbeCame:
    """A frame that asks whether the dispatcher takes its turns."""

    def __init__(self, frame: Frame) -> None:
        self.frame: Final = frame


class FrameCameBack:
    """Another entry could not be reached with it."""

    def __init__(self, frame: Frame) -> None:
        self.frame: Final = frame


class OwnerHeard:
    """Another entry owns something, which it did not when it was last heard."""


class FrameRefused:
    """Another entry has refused it."""

    def __init__(self, frame: Frame, code: ErrorCode, text: str) -> None:
        self.frame: Final = frame
        self.code: Final = code
        self.text: Final = text


class HopEnded:
    """The attempt of a batch is over, and its frames are answered. served: with outputs."""

    def __init__(self, ticket: Ticket, ended_us: int, served: bool) -> None:
        self.ticket: Final = ticket
        self.ended_us: Final = ended_us
        self.served: Final = served


class HopFailed:
    """The attempt of a batch has failed, and another one may be tried."""

    def __init__(self, ticket: Ticket, frames: Sequence[Frame], failure: HopFailure) -> None:
        self.ticket: Final = ticket
        self.frames: Final = frames
        self.failure: Final = failure


class WorkerChange:
    """What was said of a worker. number: 0, or higher than those of all that was said before."""

    def __init__(self, worker: str, number: int, is_lost: bool) -> None:
        self.worker: Final = worker
        self.number: Final = number
        self.is_lost: Final = is_lost


class LookAgain:
    """Something is due that was not when the last turn ended."""


_OfFrames = FramesCame | FramesRefused | ProbeCame | FrameCameBack | FrameRefused | OwnerHeard
_OfBatches = HopEnded | HopFailed | Notice | WorkerChange
Item = _OfFrames | _OfBatches | LookAgain | ServedTable | WantedRecording | Event
"""All that a turn takes."""
