"""What a scheduler core asks its driver to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a ticket: a worker's reserved interval and the transfer into it (empty interval for stage
    0).
    """

    worker: str
    transfer_start_us: int
    transfer_end_us: int
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """A committed reservation that travels with a batch. A retry is a new attempt with a new ticket."""

    batch_id: int
    attempt: int
    pipeline: int
    deadline_us: int
    hops: tuple[Hop, ...]
    first_stage: int = 0
    """The stage of hops[0]: above 0 only under policies that queue at every stage (in simulation)."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send these requests, in this order, as one batch."""

    ticket: Ticket
    request_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Answer this request with the reason; it is gone from the core."""

    request_id: int
    reason: DropReason


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send TimerFired at this time; it replaces any earlier wake-up of this core."""

    time_us: int


Action = Dispatch | Drop | WakeAt
