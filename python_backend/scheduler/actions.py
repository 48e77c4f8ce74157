"""What a scheduler core asks its driver to do."""

from __future__ import annotations

from enum import Enum
from typing import Final

from python_backend.scheduler.record import Record


class DropReason(Enum):
    """Why a frame is answered without having been served."""

    EXPIRED = "expired"
    """Its deadline had passed, or no idle pipeline could meet it, when it arrived."""
    OVERLOAD = "overload"
    """Queueing left too little time for any pipeline."""
    NO_WORKER = "no_worker"
    """Every pipeline has lost all workers of some stage."""
    FAILED = "failed"
    """An attempt failed and no time was left for another."""
    CANCELLED = "cancelled"
    """The caller went away."""


class Hop(Record):
    """One stage of a ticket: a worker's reserved interval and the transfer into it (empty for stage 0 where
    the first hop is not counted). ready_us: when what was transferred is prepared too, which frames need.
    """

    __slots__ = ("end_us", "ready_us", "start_us", "transfer_end_us", "transfer_start_us", "worker")
    __match_args__ = ("worker", "transfer_start_us", "transfer_end_us", "start_us", "end_us", "ready_us")

    def __init__(
        self,
        worker: str,
        transfer_start_us: int,
        transfer_end_us: int,
        start_us: int,
        end_us: int,
        ready_us: int = -1,
    ) -> None:
        """ready_us: left out, the end of the transfer."""
        self.worker: Final = worker
        self.transfer_start_us: Final = transfer_start_us
        self.transfer_end_us: Final = transfer_end_us
        self.start_us: Final = start_us
        self.end_us: Final = end_us
        self.ready_us: Final = ready_us if ready_us >= 0 else transfer_end_us

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (
            self.worker, self.transfer_start_us, self.transfer_end_us, self.start_us, self.end_us,
            self.ready_us,
        )  # fmt: skip


class Ticket(Record):
    """A committed reservation that travels with a batch. A retry is a new attempt with a new ticket.

    first_stage: the stage of hops[0], above 0 only under policies that queue at every stage (in simulation).
    answer_us: when its answers are to be back at the entry; where the last hop is not counted, the last end.
    """

    __slots__ = ("answer_us", "attempt", "batch_id", "deadline_us", "first_stage", "hops", "pipeline")
    __match_args__ = ("batch_id", "attempt", "pipeline", "deadline_us", "hops", "first_stage", "answer_us")

    def __init__(
        self,
        batch_id: int,
        attempt: int,
        pipeline: int,
        deadline_us: int,
        hops: tuple[Hop, ...],
        first_stage: int = 0,
        answer_us: int = -1,
    ) -> None:
        """answer_us: left out, the end of the last hop."""
        self.batch_id: Final = batch_id
        self.attempt: Final = attempt
        self.pipeline: Final = pipeline
        self.deadline_us: Final = deadline_us
        self.hops: Final = hops
        self.first_stage: Final = first_stage
        self.answer_us: Final = answer_us if answer_us >= 0 or not hops else hops[-1].end_us

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (
            self.batch_id, self.attempt, self.pipeline, self.deadline_us, self.hops, self.first_stage,
            self.answer_us,
        )  # fmt: skip

    def with_deadline(self, deadline_us: int) -> Ticket:
        """The same ticket with another deadline."""
        return Ticket(
            self.batch_id, self.attempt, self.pipeline, deadline_us, self.hops, self.first_stage,
            self.answer_us,
        )  # fmt: skip


class Dispatch(Record):
    """Send these requests, in this order, as one batch."""

    __slots__ = ("request_ids", "ticket")
    __match_args__ = ("ticket", "request_ids")

    def __init__(self, ticket: Ticket, request_ids: tuple[int, ...]) -> None:
        self.ticket: Final = ticket
        self.request_ids: Final = request_ids

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.ticket, self.request_ids)


class Drop(Record):
    """Answer this request with the reason; it is gone from the core."""

    __slots__ = ("reason", "request_id")
    __match_args__ = ("request_id", "reason")

    def __init__(self, request_id: int, reason: DropReason) -> None:
        self.request_id: Final = request_id
        self.reason: Final = reason

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.request_id, self.reason)


class WakeAt(Record):
    """Send TimerFired at this time; it replaces any earlier wake-up of this core."""

    __slots__ = ("time_us",)
    __match_args__ = ("time_us",)

    def __init__(self, time_us: int) -> None:
        self.time_us: Final = time_us

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        return (self.time_us,)


Action = Dispatch | Drop | WakeAt
