"""What the core remembers of frames and of batches under way.

A frame is in exactly one place: waiting in the queue (`batch` None) or in one batch. A batch holds one
reservation per stage of its ticket. Native classes, not dataclasses, so that the compiled core makes them
cheaply.
"""

from __future__ import annotations


class Request:
    """One frame. `attempts` counts the batches it was in that failed."""

    __slots__ = (
        "arrived_us",
        "attempts",
        "batch",
        "deadline_us",
        "frame_bytes",
        "prepare_us",
        "priority",
        "queue",
        "request_id",
        "sequence",
        "stage",
        "stream",
    )

    def __init__(
        self, request_id: int, deadline_us: int, priority: int, sequence: int, arrived_us: int
    ) -> None:
        self.request_id: int = request_id
        self.deadline_us: int = deadline_us
        self.priority: int = priority
        self.sequence: int = sequence
        self.arrived_us: int = arrived_us
        self.attempts: int = 0
        self.frame_bytes: int = 0
        self.prepare_us: int = 0
        """Of one core; both only where the way in is counted."""
        self.stage: int = 0
        """The stage whose queue it waits in: above 0 only under policies without reservations."""
        self.batch: Batch | None = None
        self.stream: Stream | None = None
        """That it is of; None for models without streams."""
        self.queue: StreamQueue | None = None
        """Of its stream, while it waits for its turn."""


class StreamQueue:
    """The waiting frames of one stream and priority, by (deadline, sequence)."""

    __slots__ = ("at", "frames", "number", "priority", "rank_us", "steps")

    def __init__(self, priority: int) -> None:
        self.priority: int = priority
        self.frames: list[Request] = []
        self.rank_us: int = 0
        """The deadline whose place in the queue its first frame has: its own, or that of an older frame that
        it superseded."""
        self.steps: int = 0
        """What its stream has spent, as it counts, while frames wait."""
        self.number: int = 0
        """Between those of equal steps and rank the one that waits longer goes first."""
        self.at: int = -1
        """Where it stands among those that wait for their turn; -1 while no frame waits."""


class Stream(StreamQueue):
    """What is known of one stream: the frames of one camera. It is itself the queue of its frames of the
    priority that the first one had."""

    __slots__ = (
        "charge",
        "due_us",
        "last_place",
        "more_queues",
        "name",
        "newest_id",
        "open",
        "seen_us",
        "spent",
        "waiting",
    )

    def __init__(self, name: str, charge: int, priority: int) -> None:
        super().__init__(priority)
        self.name: str = name
        self.charge: int = charge
        """What it spends on each frame that is sent: the less, the greater its weight."""
        self.spent: int = 0
        self.last_place: int = -1
        self.newest_id: int = -1
        """The frame that came last."""
        self.due_us: int = 0
        """When its next frame is due at its most_rps."""
        self.seen_us: int = 0
        self.open: int = 0
        """Frames that have not ended."""
        self.more_queues: list[StreamQueue] | None = None
        """Those of frames that have other priorities: few streams have such."""
        self.waiting: Request | None = None
        """Its frame that waits, where only the newest is kept."""


class Reservation:
    """A worker's interval [start, end) for one stage of a batch, and the transfer into it (empty for a
    first stage where the way in is not counted). Or, without a worker, the way back of its answers."""

    __slots__ = (
        "batch",
        "delay_us",
        "down_until_us",
        "down_wire_us",
        "downlink",
        "duration_us",
        "end_us",
        "moved",
        "ready_us",
        "stage",
        "start_us",
        "transfer_end_us",
        "transfer_start_us",
        "up_until_us",
        "up_wire_us",
        "uplink",
        "worker",
    )

    def __init__(self, stage: int, worker: int, duration_us: int) -> None:
        self.batch: Batch | None = None
        self.stage: int = stage
        self.worker: int = worker
        self.duration_us: int = duration_us
        self.uplink: int = -1
        """Of the sender: -1 where nothing that is counted is transferred."""
        self.downlink: int = -1
        self.moved: bool = False
        """Whether the transfer was moved because the stage before it ended later than predicted."""
        self.delay_us: int = 0
        """From the end of the stage before to the earliest start of the transfer."""
        self.up_wire_us: int = 0
        self.down_wire_us: int = 0
        """How much of its links' time the transfer takes."""
        self.transfer_start_us: int = 0
        self.transfer_end_us: int = 0
        self.up_until_us: int = 0
        self.down_until_us: int = 0
        """Until when its links are held."""
        self.ready_us: int = 0
        """When what was transferred can be computed on: frames are prepared first."""
        self.start_us: int = 0
        self.end_us: int = 0


class Batch:
    """Frames that travel together under one ticket; `hops[i]` is stage `first_stage + i`, None once it is
    completed."""

    __slots__ = (
        "answer",
        "attempt",
        "batch_id",
        "deadline_us",
        "first_stage",
        "hops",
        "last",
        "pipeline",
        "quoted_us",
        "requests",
    )

    def __init__(
        self,
        batch_id: int,
        attempt: int,
        pipeline: int,
        first_stage: int,
        requests: list[Request],
        hops: list[Reservation],
        answer: Reservation | None = None,
    ) -> None:
        self.batch_id: int = batch_id
        self.attempt: int = attempt
        self.pipeline: int = pipeline
        self.first_stage: int = first_stage
        self.requests: list[Request] = requests
        self.hops: list[Reservation | None] = list(hops)
        self.last: Reservation = hops[-1]
        self.answer: Reservation | None = answer
        """The way back, where it is counted."""
        self.quoted_us: int = hops[-1].end_us
        """When it was to end as committed."""
        deadline_us = requests[0].deadline_us
        for request in requests:
            deadline_us = min(deadline_us, request.deadline_us)
        self.deadline_us: int = deadline_us

    def answered_us(self, ended_us: int) -> int:
        """When the answers are back if the last stage ended then."""
        answer = self.answer
        if answer is None:
            return ended_us
        return max(answer.transfer_end_us, ended_us)
