"""What a scheduler core asks its driver to do."""

from __future__ import annotations

from enum import Enum

from python_backend.scheduler.declare import record
from python_backend.scheduler.record import Record


class DropReason(Enum):
    """Why a frame is answered without having been served."""

    EXPIRED = "expired"
    """Its deadline had passed, or no idle pipeline could meet it, when it arrived."""
    OVERLOAD = "overload"
    """Queueing left too little time for any pipeline."""
    NO_WORKER = "no_worker"
    """Every pipeline has lost all workers of some stage."""
    NO_OWNER = "no_owner"
    """Nobody scheduled the model's workers, and time ran out before somebody did."""
    FAILED = "failed"
    """An attempt failed and no time was left for another."""
    CANCELLED = "cancelled"
    """The caller went away."""
    SUPERSEDED = "superseded"
    """A newer frame of its stream came before it was sent."""
    RATE = "rate"
    """Its stream sends more than its most_rps."""
    PLACE = "place"
    """Its place is not after those of its stream that came before."""
    OVERTAKEN = "overtaken"
    """Its deadline passed while the answer to a later frame of its stream waited for it."""


@record
class Hop(Record):
    """One stage of a ticket: a worker's reserved interval and the transfer into it (empty for stage 0 where
    the first hop is not counted). ready_us: when what was transferred is prepared too, which frames need.
    """

    worker: str
    transfer_start_us: int
    transfer_end_us: int
    start_us: int
    end_us: int
    ready_us: int


@record
class Ticket(Record):
    """A committed reservation that travels with a batch. A retry is a new attempt with a new ticket.

    first_stage: the stage of hops[0], above 0 only under policies that queue at every stage (in simulation).
    answer_us: when its answers are to be back at the entry; where the last hop is not counted, the last end.
    """

    batch_id: int
    attempt: int
    pipeline: int
    deadline_us: int
    hops: tuple[Hop, ...]
    first_stage: int
    answer_us: int

    def with_deadline(self, deadline_us: int) -> Ticket:
        """The same ticket with another deadline."""
        return Ticket(
            self.batch_id, self.attempt, self.pipeline, deadline_us, self.hops, self.first_stage,
            self.answer_us,
        )  # fmt: skip


@record
class Dispatch(Record):
    """Send these requests, in this order, as one batch."""

    ticket: Ticket
    request_ids: tuple[int, ...]


@record
class Drop(Record):
    """Answer this request with the reason; it is gone from the core."""

    request_id: int
    reason: DropReason


@record
class WakeAt(Record):
    """Send TimerFired at this time; it replaces any earlier wake-up of this core."""

    time_us: int


Action = Dispatch | Drop | WakeAt


def tensor_hop(worker: str, transfer_start_us: int, transfer_end_us: int, start_us: int, end_us: int) -> Hop:
    """A hop of tensors, which are ready as soon as they have come."""
    return Hop(worker, transfer_start_us, transfer_end_us, start_us, end_us, ready_us=transfer_end_us)


def plain_ticket(
    batch_id: int, attempt: int, pipeline: int, deadline_us: int, hops: tuple[Hop, ...]
) -> Ticket:
    """A ticket from the first stage on, of a batch whose answers are back as soon as its last hop ends."""
    return Ticket(
        batch_id,
        attempt,
        pipeline,
        deadline_us,
        hops,
        first_stage=0,
        answer_us=hops[-1].end_us if hops else 0,
    )
