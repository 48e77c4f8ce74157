"""Hops within a host: tensors through an arena, a small gRPC message as control. Everything else goes over
gRPC.

Rules: the arena is registered with a receiver's server once, and again when that server does not know it
(it was restarted). A batch that is small, too large for a slot, or finds no free slot travels inside its
message.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping

from planner.manifest import ModelEntry
from planner.profile import TensorSpec
from python_backend.runtime import kserve
from python_backend.runtime.clock import now_us
from python_backend.runtime.hop_failure import FailureKind, HopFailure
from python_backend.runtime.shm_arena import Arena, ArenaError, Slot
from python_backend.runtime.ticket_codec import WireTicket
from python_backend.runtime.transport import GrpcTransport, Outputs, Pieces, RegionUnknown, Target

SMALLEST_BYTES = 65_536
"""Below this a message body is as fast."""
_REGISTER_S = 5.0


class ShmTransport:
    """See the module. Thread-safe."""

    def __init__(
        self,
        grpc: GrpcTransport,
        targets: Mapping[str, Target],
        arena: Arena,
        smallest_bytes: int = SMALLEST_BYTES,
    ) -> None:
        self._grpc = grpc
        self._smallest_bytes = smallest_bytes
        self._targets = targets
        self._arena = arena
        self._registered: set[str] = set()
        self._lock = threading.Lock()
        self._head = functools.lru_cache(maxsize=8192)(self._new_head)

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        assert wire.ticket is not None
        worker = wire.ticket.hops[wire.hop].worker
        size = sum(len(piece) for pieces in tensors for piece in pieces)
        slot = None
        if size >= self._smallest_bytes and self._targets[worker].same_host:
            slot = self._arena.take(size)
        if slot is None:
            return self._grpc.infer(wire, tensors, batch, timeout_s)
        self._arena.write(slot, tensors)
        return self._infer_from(slot, wire, worker, batch, timeout_s)

    def close(self) -> None:
        """See Transport. Receivers let go of the arena first."""
        for server in self._registered:
            self._grpc.unregister_region(server, self._arena.key[1:], timeout_s=1.0)
        self._grpc.close()
        self._arena.close()

    def _infer_from(self, slot: Slot, wire: WireTicket, worker: str, batch: int, timeout_s: float) -> Outputs:
        """Send, with one registration and one more try when the server does not know the arena."""
        sent_us = now_us()
        try:
            outputs = self._try(slot, wire, worker, batch, timeout_s)
        except HopFailure as failure:
            self._after_failure(slot, worker, failure)
            raise
        self._arena.give_back(slot)
        self._arena.answered(worker, sent_us)
        return outputs

    def _try(self, slot: Slot, wire: WireTicket, worker: str, batch: int, timeout_s: float) -> Outputs:
        server = self._targets[worker].server.name
        if server not in self._registered:
            self._register(server)
        request = self._head(worker, batch, slot.offset) + self._grpc.ticket_parameter(wire)
        try:
            return self._grpc.send(worker, wire.hop, request, timeout_s)
        except RegionUnknown:
            self._registered.discard(server)
            self._register(server)
            return self._grpc.send(worker, wire.hop, request, timeout_s)

    def _register(self, server: str) -> None:
        with self._lock:
            if server not in self._registered:
                self._grpc.register_region(server, self._arena.key, self._arena.size, _REGISTER_S)
                self._registered.add(server)

    def _after_failure(self, slot: Slot, worker: str, failure: HopFailure) -> None:
        """Free the slot if its reader has surely read it or never will."""
        if failure.worker == worker and failure.kind is FailureKind.TIMED_OUT:
            self._arena.quarantine(slot, worker)
            return
        self._arena.give_back(slot)
        if failure.kind in (FailureKind.UNREACHABLE, FailureKind.DEAD_STUB):
            self._arena.dead(failure.worker)

    def _new_head(self, worker: str, batch: int, offset: int) -> bytes:
        inputs = self._targets[worker].inputs
        return kserve.shared_memory_head(worker, inputs, batch, self._arena.key[1:], offset)


def make_transport(
    grpc: GrpcTransport, targets: Mapping[str, Target], name: str, depth: int, log: Callable[[str], None]
) -> GrpcTransport | ShmTransport:
    """Shared memory where it pays and fits, else gRPC alone. `depth`: batches under way at once."""
    near = [target for target in targets.values() if target.same_host]
    slot_bytes = max((frame_bytes(target.inputs) * target.max_batch_size for target in near), default=0)
    if slot_bytes < SMALLEST_BYTES:
        return grpc
    try:
        return ShmTransport(grpc, targets, Arena(name, slot_bytes, depth))
    except (ArenaError, OSError) as error:
        log(f"{name}: hops go through gRPC bodies, which is slower: {error}")
        return grpc


def frame_bytes(specs: tuple[TensorSpec, ...]) -> int:
    """Bytes of one frame of these tensors."""
    return sum(spec.bytes_per_frame for spec in specs)


def depth_of(entry: ModelEntry, pipeline: int, stage: int, most: int = 16) -> int:
    """Batches that a worker of `stage` can have under way further on: what is left of the pipeline, in its
    own batch times, and some for queues.
    """
    served = entry.served.pipelines[pipeline]
    last = served.batch_size - 1
    own_us = max(1, served.stages[stage].latency_us[last])
    rest_us = sum(table.latency_us[last] for table in served.stages[stage + 1 :])
    return min(most, 3 + -(-2 * rest_us // own_us))
