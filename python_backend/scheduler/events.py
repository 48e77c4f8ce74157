"""What can happen to a scheduler core. Times are integer microseconds on the driver's one clock."""

from __future__ import annotations

from typing import Final

from python_backend.scheduler.record import Record


class RequestArrived(Record):
    """A frame wants an answer by `deadline_us`. Ids are the driver's, unique per core; higher priority goes
    first. frame_bytes, pixels: of this frame as its client sent it; 0 bytes: as planned.
    """

    __slots__ = ("deadline_us", "frame_bytes", "pixels", "priority", "request_id")
    __match_args__ = ("request_id", "deadline_us", "priority", "frame_bytes", "pixels")

    def __init__(
        self, request_id: int, deadline_us: int, priority: int = 0, frame_bytes: int = 0, pixels: int = 0
    ) -> None:
        self.request_id: Final = request_id
        self.deadline_us: Final = deadline_us
        self.priority: Final = priority
        self.frame_bytes: Final = frame_bytes
        self.pixels: Final = pixels

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.request_id, self.deadline_us, self.priority, self.frame_bytes, self.pixels)


class TimerFired(Record):
    """A time asked for by WakeAt has come; late and spurious ones are harmless."""

    __slots__ = ()

    def values(self) -> tuple[object, ...]:
        """No fields."""
        return ()


class StageCompleted(Record):
    """Stage `stage` of a batch ended on its worker at `ended_us`; after the last one it is answered."""

    __slots__ = ("attempt", "batch_id", "ended_us", "stage")
    __match_args__ = ("batch_id", "attempt", "stage", "ended_us")

    def __init__(self, batch_id: int, attempt: int, stage: int, ended_us: int) -> None:
        self.batch_id: Final = batch_id
        self.attempt: Final = attempt
        self.stage: Final = stage
        self.ended_us: Final = ended_us

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.batch_id, self.attempt, self.stage, self.ended_us)


class BatchFailed(Record):
    """An attempt of a batch failed at `stage`: its requests are queued again while their deadlines allow."""

    __slots__ = ("attempt", "batch_id", "stage")
    __match_args__ = ("batch_id", "attempt", "stage")

    def __init__(self, batch_id: int, attempt: int, stage: int) -> None:
        self.batch_id: Final = batch_id
        self.attempt: Final = attempt
        self.stage: Final = stage

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.batch_id, self.attempt, self.stage)


class WorkerLost(Record):
    """Worker `worker` (name) takes no more work; what it held is reported by BatchFailed."""

    __slots__ = ("worker",)
    __match_args__ = ("worker",)

    def __init__(self, worker: str) -> None:
        self.worker: Final = worker

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.worker,)


class WorkerBack(Record):
    """Worker `worker` (name) can be used again."""

    __slots__ = ("worker",)
    __match_args__ = ("worker",)

    def __init__(self, worker: str) -> None:
        self.worker: Final = worker

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.worker,)


class RequestCancelled(Record):
    """Nobody waits for this frame any more."""

    __slots__ = ("request_id",)
    __match_args__ = ("request_id",)

    def __init__(self, request_id: int) -> None:
        self.request_id: Final = request_id

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.request_id,)


class LinkTaken(Record):
    """Another model's dispatcher sends over uplink `link` (name) from `start_us` until `until_us`."""

    __slots__ = ("link", "start_us", "until_us")
    __match_args__ = ("link", "start_us", "until_us")

    def __init__(self, link: str, start_us: int, until_us: int) -> None:
        self.link: Final = link
        self.start_us: Final = start_us
        self.until_us: Final = until_us

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.link, self.start_us, self.until_us)


Event = (
    RequestArrived
    | TimerFired
    | StageCompleted
    | BatchFailed
    | WorkerLost
    | WorkerBack
    | RequestCancelled
    | LinkTaken
)
