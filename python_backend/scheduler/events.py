"""What can happen to a scheduler core. Times are integer microseconds on the driver's one clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A frame wants an answer by `deadline_us`. Ids are the driver's, unique per core; higher priority is
    served first.
    """

    request_id: int
    deadline_us: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A time asked for by WakeAt has come; late and spurious ones are harmless."""


@dataclass(frozen=True, slots=True)
class StageCompleted:
    """Stage `stage` of a batch ended on its worker at `ended_us`; after the last stage the batch is done."""

    batch_id: int
    attempt: int
    stage: int
    ended_us: int


@dataclass(frozen=True, slots=True)
class BatchFailed:
    """An attempt of a batch failed at `stage`: its requests are queued again while their deadlines allow."""

    batch_id: int
    attempt: int
    stage: int


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """Worker `worker` (name) takes no more work; what it held is reported by BatchFailed."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerBack:
    """Worker `worker` (name) can be used again."""

    worker: str


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """Nobody waits for this frame any more."""

    request_id: int


Event = (
    RequestArrived | TimerFired | StageCompleted | BatchFailed | WorkerLost | WorkerBack | RequestCancelled
)
