"""A transport to nowhere: answers each batch at once with zeros, to measure what a dispatcher alone costs."""

from __future__ import annotations

from collections.abc import Sequence

from planner.profile import TensorSpec
from python_backend.wire import kserve
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Awaited, Outputs, Pieces


class NullTransport:
    """See the module. Tensors are joined, as a real transport has to, and thrown away."""

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self._outputs = outputs

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        for pieces in tensors:
            b"".join(pieces)
        return {spec.name: kserve.zeros_of(spec, batch) for spec in self._outputs}

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """See Transport."""
        return None

    def close(self) -> None:
        """Nothing to give up."""
