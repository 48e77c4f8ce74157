"""A transport to nowhere: answers each batch at once with zeros, to measure what a dispatcher alone costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.profile import TensorSpec
from python_backend.wire.kserve import NUMPY_OF
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
        return {spec.name: np.zeros((batch, *spec.shape), NUMPY_OF[spec.dtype]) for spec in self._outputs}

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """See Transport."""
        return None

    def close(self) -> None:
        """Nothing to give up."""
