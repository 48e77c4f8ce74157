"""A whole pipeline within one server as one hop: its stages are called as a Triton ensemble (a chain).

Rules
- Only the path that the core has committed counts: all its workers must be those of one chain.
- Triton copies what passes between the steps of an ensemble, so only a batch whose tensors are small at every
  hop goes this way; larger ones are faster through shared memory, hop by hop.
- Unless all stages sit on one GPU: what passes between them stays there, and a batch of any size goes this
  way, as long as two such batches fit Triton's pool of CUDA memory, outside of which it takes host memory.
- The ticket says that it is for a chain: each stage finds its own place in it by its name, and answers with
  its own outputs instead of passing them on.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from planner.manifest import Chain, ModelEntry
from planner.profile import TensorSpec
from python_backend.wire import kserve, ticket_codec
from python_backend.wire.shm_layout import SMALLEST_BYTES
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Awaited, Bodies, Outputs, Pieces, Transport

CUDA_POOL_BYTES = 64 << 20
"""Of each GPU: tritonserver's default of --cuda-memory-pool-byte-size."""


class ChainTransport:
    """See the module. What is for no chain goes through `inner`. Thread-safe."""

    def __init__(self, inner: Transport, grpc: Bodies, entry: ModelEntry) -> None:
        self._inner = inner
        self._grpc = grpc
        self._chains: Mapping[tuple[str, ...], Chain] = {chain.workers: chain for chain in entry.chains}
        self._inputs = {chain.name: entry.programs[chain.pipeline][0].inputs for chain in entry.chains}
        self._most_frames = {chain.name: _most_frames(entry, chain) for chain in entry.chains}
        self._head = functools.lru_cache(maxsize=4096)(self._new_head)
        self.batches = 0
        """Sent to chains so far."""

    @property
    def inner(self) -> Transport:
        """What batches go through that are for no chain."""
        return self._inner

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        assert wire.ticket is not None
        chain = self._chain_of(wire, batch)
        if chain is None:
            return self._inner.infer(wire, tensors, batch, timeout_s)
        self.batches += 1
        text = self._grpc.ticket_text(wire.for_chain())
        ticket = kserve.text_parameter(ticket_codec.PARAMETER, text)
        request = kserve.request_bytes(self._head(chain.name, batch), ticket, tensors)
        return self._grpc.send(chain.workers[0], wire.hop, request, timeout_s)

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """See Transport."""
        if self._chain_of(wire, batch) is not None:
            return None
        return self._inner.begin(wire, tensors, batch, timeout_s)

    def close(self) -> None:
        """See Transport."""
        self._inner.close()

    def _chain_of(self, wire: WireTicket, batch: int) -> Chain | None:
        assert wire.ticket is not None
        chain = self._chains.get(tuple(hop.worker for hop in wire.ticket.hops))
        return None if chain is None or batch > self._most_frames[chain.name] else chain

    def _new_head(self, name: str, batch: int) -> bytes:
        return kserve.request_head(name, self._inputs[name], batch)


def _most_frames(entry: ModelEntry, chain: Chain) -> int:
    """The largest batch whose tensors are small at every hop, or stay in the GPU's pool."""
    programs = entry.programs[chain.pipeline]
    per_frame = [_frame_bytes(program.inputs) for program in programs]
    if chain.gpu_id is None:
        fitting = SMALLEST_BYTES // max(1, *per_frame)
    else:
        fitting = CUDA_POOL_BYTES // 2 // max(1, sum(per_frame[1:]))
    return min(fitting, *(program.max_batch_size for program in programs))


def _frame_bytes(specs: tuple[TensorSpec, ...]) -> int:
    return sum(spec.bytes_per_frame for spec in specs)
