"""What can happen to a scheduler core. Times are integer microseconds on the driver's one clock."""

from __future__ import annotations

from python_backend.scheduler.declare import record
from python_backend.scheduler.record import Record


@record
class RequestArrived(Record):
    """A frame wants an answer by `deadline_us`. Ids are the driver's, unique per core; higher priority goes
    first. frame_bytes, pixels: of this frame as its client sent it; 0 bytes: as planned.

    Where the model has streams: the name of the frame's stream, '' for none, and its place there, -1 for the
    next one. again: the frame was offered before, and the core gave it up.
    """

    request_id: int
    deadline_us: int
    priority: int = 0
    frame_bytes: int = 0
    pixels: int = 0
    stream: str = ""
    place: int = -1
    again: bool = False


@record
class TimerFired(Record):
    """A time asked for by WakeAt has come; late and spurious ones are harmless."""


@record
class StageCompleted(Record):
    """Stage `stage` of a batch ended on its worker at `ended_us`; after the last one it is answered."""

    batch_id: int
    attempt: int
    stage: int
    ended_us: int


@record
class BatchFailed(Record):
    """An attempt of a batch failed at `stage`: its requests are queued again while their deadlines allow."""

    batch_id: int
    attempt: int
    stage: int


@record
class WorkerLost(Record):
    """Worker `worker` (name) takes no more work; what it held is reported by BatchFailed."""

    worker: str


@record
class WorkerBack(Record):
    """Worker `worker` (name) can be used again."""

    worker: str


@record
class RequestCancelled(Record):
    """Nobody waits for this frame any more."""

    request_id: int


@record
class LinkTaken(Record):
    """Another model's dispatcher sends over uplink `link` (name) from `start_us` until `until_us`."""

    link: str
    start_us: int
    until_us: int


@record
class LinkBehind(Record):
    """What is seen of link `link` (name), the entry's uplink or, if `is_down`, a server's downlink: what was
    to have crossed it by now takes `behind_us` more, and what is sent takes `pace` / 1000 times as long as
    planned. Told anew when that changes.
    """

    link: str
    is_down: bool
    behind_us: int
    pace: int


@record
class WorkerTaken(Record):
    """Batches of another table hold worker `worker` (name) until `until_us`; told anew when that changes."""

    worker: str
    until_us: int


@record
class Inherited(Record):
    """What the core before this one had learned: its guard, and what the mean frame brings and takes (0 bytes
    where the way in is not counted).
    """

    guard_us: int
    frame_bytes: int
    prepare_us: int


@record
class Yielded(Record):
    """Another core owns workers of this one, which hears of each of them as lost: with none left, frames
    wait for another core instead of being dropped.
    """


Event = (
    RequestArrived
    | TimerFired
    | StageCompleted
    | BatchFailed
    | WorkerLost
    | WorkerBack
    | RequestCancelled
    | LinkTaken
    | LinkBehind
    | WorkerTaken
    | Yielded
    | Inherited
)
