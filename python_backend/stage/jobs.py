"""A batch on a stage's worker, and where its answer goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from python_backend.wire.hop_failure import HopFailure
from python_backend.wire.kserve import Array
from python_backend.wire.ragged import FrameInfo
from python_backend.wire.ticket_codec import WireTicket


class Reply(Protocol):
    """Where the answer to one request goes; the first of the two calls that does not raise counts."""

    def outputs(self, outputs: Mapping[str, Array]) -> None:
        """Answer with tensors. Raises what keeps them from being sent."""

    def failure(self, failure: HopFailure) -> None:
        """Answer with an error."""


Finish = Callable[[Mapping[str, Array], Sequence[FrameInfo]], Mapping[str, Array]]
"""The model's outputs, and the frames as their clients sent them, to answers."""


class BatchJob:
    """A batch on this worker. `inputs` may be views that stay valid until the reply. ready_us: when it could
    first be computed. faults: what is wrong with which frame.
    """

    def __init__(
        self, wire: WireTicket, batch: int, inputs: list[Array], reply: Reply, ready_us: int
    ) -> None:
        self.wire = wire
        self.batch = batch
        self.inputs = inputs
        self.reply = reply
        self.ready_us = ready_us
        self.faults: Mapping[int, str] = {}

    @property
    def order(self) -> tuple[int, int, int]:
        """The order in which the dispatcher reserved."""
        assert self.wire.ticket is not None
        ticket = self.wire.ticket
        return ticket.hops[self.wire.hop].start_us, ticket.batch_id, ticket.attempt

    @property
    def at_last_stage(self) -> bool:
        """Whether no stage comes after this one."""
        ticket = self.wire.ticket
        return ticket is not None and self.wire.hop + 1 == len(ticket.hops)

    @property
    def is_last(self) -> bool:
        """Whether nothing is to be passed on from here; in a chain, Triton does that."""
        return self.wire.ticket is not None and (self.wire.chained or self.at_last_stage)

    @property
    def stays_on_device(self) -> bool:
        """Whether the next stage is on this GPU too, and Triton takes the outputs there."""
        wire = self.wire
        return wire.ticket is not None and wire.chained and wire.on_device and not self.at_last_stage
