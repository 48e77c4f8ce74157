"""Moves a batch to a worker's server and brings the answer back: the interface. Its kinds are in `http/`,
`http2/`, `grpc/` and `shm/`.

Rules: an infer call blocks its thread, always has a time limit, and ends in outputs or in a HopFailure.
Tensors are given as the pieces they are made of, in the stage's positional order, so that forming a batch
copies nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from planner.manifest import (
    RAGGED_INPUT,
    SHARED_FRAMES,
    DeploymentManifest,
    ModelEntry,
    ServerAddress,
)
from planner.profile import TensorSpec
from python_backend.wire.hop_failure import FailureKind, HopFailure, from_wire
from python_backend.wire.kserve import Array, Buffer
from python_backend.wire.ragged import EMPTY_ELEMENT, body_of
from python_backend.wire.status import GrpcStatus
from python_backend.wire.ticket_codec import WireTicket

Address = tuple[str, int]
"""Host and gRPC port."""
Outputs = Mapping[str, Array]
Pieces = Sequence[Sequence[Buffer]]
"""One sequence of pieces per input tensor, or per frame of a ragged batch."""
Awaited = Callable[[], Outputs]
"""Waits for the outputs of a batch that is sent. Raises HopFailure."""


class Transport(Protocol):
    """How a batch reaches the worker of its next hop."""

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """The outputs that come back for this batch. Raises HopFailure."""

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """Send this batch now, if that takes no waiting and little copying; the answer is then awaited by
        another thread, which so wakes up while the batch is under way. None: nothing was sent.
        """

    def close(self) -> None:
        """Give up connections and memory."""


class Bodies(Transport, Protocol):
    """Messages with the tensors in them, to any host (GrpcTransport)."""

    def send_tensors(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int, timeout_s: float
    ) -> Outputs:
        """Have a batch served whose tensors, of these specs, come along. Raises HopFailure."""

    def send(self, worker: str, hop: int, request: bytes, timeout_s: float) -> Outputs:
        """Send a whole serialised request. Raises HopFailure."""

    def probe(self, worker: str, timeout_s: float) -> None:
        """Have `worker` answer a frame of zeros. Raises HopFailure."""

    def ticket_text(self, wire: WireTicket, tensors: Pieces) -> str:
        """The ticket for one sending with these tensors, its times on the receiver's clock."""

    def request(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int
    ) -> list[Buffer]:
        """A gRPC request for one sending, in pieces."""


@dataclass(frozen=True)
class Target:
    """A worker that a hop can lead to."""

    worker: str
    server: ServerAddress
    inputs: tuple[TensorSpec, ...]
    """As they come in a message: RAGGED_INPUT where clients' frames do."""
    same_host: bool


def in_message(wire: WireTicket, tensors: Pieces) -> Pieces:
    """What a transport is given for a batch, as it goes into a message."""
    return body_of(tensors) if wire.carries_frames else tensors


def zero_of(spec: TensorSpec) -> bytes:
    """One frame of zeros, or of an empty text."""
    return EMPTY_ELEMENT if spec.dtype == "BYTES" else bytes(spec.bytes_per_frame)


def size_of(tensors: Pieces) -> int:
    """Bytes of all tensors."""
    return sum(len(piece) for pieces in tensors for piece in pieces)


def worker_of(wire: WireTicket) -> str:
    """That a batch is sent to next; of a probe, who is asked."""
    return wire.chain if wire.ticket is None else wire.ticket.hops[wire.hop].worker


def model_of(wire: WireTicket) -> str:
    """The Triton model that a batch is sent to next: that worker, or the ensemble of a chain that begins with
    it.
    """
    return wire.chain or worker_of(wire)


def probe_of(worker: str) -> WireTicket:
    """Asks a worker for a sign of life."""
    return WireTicket(deployment="", revision=0, hop=0, ticket=None, chain=worker)


def zeros_for(target: Target) -> Pieces:
    """One frame of zeros, as it goes into a message to this worker."""
    return [[zero_of(spec)] for spec in target.inputs]


def targets_of(manifest: DeploymentManifest, entry: ModelEntry, own_host: str) -> dict[str, Target]:
    """Every worker of a model by name, as seen from `own_host`."""
    targets = {}
    for pipeline, programs in zip(entry.served.pipelines, entry.programs, strict=True):
        for position, (stage, program) in enumerate(zip(pipeline.stages, programs, strict=True)):
            prepares = position == 0 and entry.prepare is not None
            for worker in stage.workers:
                server = manifest.server(worker.server)
                targets[worker.name] = Target(
                    worker=worker.name,
                    server=server,
                    inputs=RAGGED_INPUT if prepares else program.inputs,
                    same_host=server.host == own_host,
                )
    return targets


def failure_from(status: GrpcStatus, details: str, hop: int, worker: str) -> HopFailure:
    """What a call to `worker` that ended so says about it, or about a stage behind it."""
    told = from_wire(details)
    if told is not None:
        return told
    return HopFailure(_kind_of(status, details), hop, worker, f"{status.name}: {details[:300]}")


def _kind_of(status: GrpcStatus, details: str) -> FailureKind:
    if SHARED_FRAMES in details:
        return FailureKind.NO_MEMORY  # a repository of an older generator: its stages have no such input
    if "Stub process" in details:
        return FailureKind.DEAD_STUB
    if status in (GrpcStatus.DEADLINE_EXCEEDED, GrpcStatus.CANCELLED):
        return FailureKind.TIMED_OUT
    if status is GrpcStatus.UNAVAILABLE:
        return FailureKind.UNREACHABLE
    if status is GrpcStatus.NOT_FOUND:
        return FailureKind.NOT_LOADED
    if status is GrpcStatus.INVALID_ARGUMENT:
        return FailureKind.REFUSED
    return FailureKind.COMPUTE
