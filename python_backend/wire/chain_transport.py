"""A whole pipeline within one server as one hop: its stages are called as a Triton ensemble (a chain).

Rules
- Only the path that the core has committed counts: all its workers must be those of one chain.
- Triton copies what passes between the steps of an ensemble, so only a batch whose tensors are small at
  every hop goes this way; larger ones are faster through shared memory, hop by hop. Clients' frames do not
  count: they lie in shared memory as they do for a first stage alone.
- Unless all stages sit on one GPU: what passes between them stays there, and a batch of any size goes this
  way, as long as two such batches fit Triton's pool of CUDA memory, outside of which it takes host memory.
- The ticket says that it is for a chain: each stage finds its own place in it by its name, and answers with
  its own outputs instead of passing them on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from planner.manifest import Chain, ModelEntry
from planner.profile import TensorSpec
from python_backend.wire.shm.layout import SMALLEST_BYTES
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Awaited, Outputs, Pieces, Transport

CUDA_POOL_BYTES: Final = 64 << 20
"""Of each GPU: tritonserver's default of --cuda-memory-pool-byte-size."""


class ChainTransport:
    """See the module. Batches go through `inner`, for a chain or not. Thread-safe."""

    def __init__(self, inner: Transport, entry: ModelEntry) -> None:
        self._inner = inner
        self._chains: Mapping[tuple[str, ...], Chain] = {chain.workers: chain for chain in entry.chains}
        self._most_frames = {chain.name: _most_frames(entry, chain) for chain in entry.chains}
        self.batches = 0
        """Sent to chains so far."""

    @property
    def inner(self) -> Transport:
        """What all batches go through."""
        return self._inner

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        chain = self._chain_of(wire, batch)
        if chain is None:
            return self._inner.infer(wire, tensors, batch, timeout_s)
        self.batches += 1
        return self._inner.infer(_for_chain(wire, chain), tensors, batch, timeout_s)

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """See Transport."""
        chain = self._chain_of(wire, batch)
        if chain is None:
            return self._inner.begin(wire, tensors, batch, timeout_s)
        begun = self._inner.begin(_for_chain(wire, chain), tensors, batch, timeout_s)
        self.batches += int(begun is not None)
        return begun

    def close(self) -> None:
        """See Transport."""
        self._inner.close()

    def _chain_of(self, wire: WireTicket, batch: int) -> Chain | None:
        assert wire.ticket is not None
        chain = self._chains.get(tuple([hop.worker for hop in wire.ticket.hops]))
        return None if chain is None or batch > self._most_frames[chain.name] else chain


def _for_chain(wire: WireTicket, chain: Chain) -> WireTicket:
    return wire.for_chain(chain.name, on_device=chain.gpu_id is not None)


def _most_frames(entry: ModelEntry, chain: Chain) -> int:
    """The largest batch whose tensors are small at every hop, or stay in the GPU's pool."""
    programs = entry.programs[chain.pipeline]
    per_frame = [_frame_bytes(program.inputs) for program in programs]
    if entry.prepare is not None:
        per_frame[0] = 0  # frames lie in shared memory, and are no tensors of an ensemble
    if chain.gpu_id is None:
        fitting = SMALLEST_BYTES // max(1, *per_frame)
    else:
        fitting = CUDA_POOL_BYTES // 2 // max(1, sum(per_frame[1:]))
    return min(fitting, *(program.max_batch_size for program in programs))


def _frame_bytes(specs: tuple[TensorSpec, ...]) -> int:
    return sum(spec.bytes_per_frame for spec in specs)
