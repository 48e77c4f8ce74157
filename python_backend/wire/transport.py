"""Moves a batch to a worker's server and brings the answer back: the one interface, and the gRPC library as
its first kind, which is loaded where something goes that way.

Rules: an infer call blocks its thread, always has a time limit, and ends in outputs or in a HopFailure.
Tensors are given as the pieces they are made of, in the stage's positional order, so that forming a batch
copies nothing.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from planner.manifest import (
    RAGGED_INPUT,
    SHARED_FRAMES,
    DeploymentManifest,
    ModelEntry,
    ServerAddress,
    TlsFiles,
)
from planner.profile import TensorSpec
from python_backend.wire import kserve, ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.clocks import SAME_CLOCK, EntryClocks, sent_on_entry_us
from python_backend.wire.hop_failure import FailureKind, HopFailure, from_wire
from python_backend.wire.kserve import Array, Buffer
from python_backend.wire.ragged import EMPTY_ELEMENT, body_of
from python_backend.wire.signing.keys import Keys
from python_backend.wire.status import Status
from python_backend.wire.ticket_codec import WireTicket

if TYPE_CHECKING:
    from python_backend.wire.grpc_line import Line

CHANNEL_OPTIONS = (
    # A restarted server is usable within 0.05 s of being back, instead of gRPC's 2 s and more.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)

_CONNECT_S: Final = 60.0

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


class GrpcTransport:
    """ModelInfer over gRPC with the tensors in the message. Thread-safe. targets: may grow meanwhile."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        keys: Keys,
        tls: TlsFiles | None = None,
        clocks: EntryClocks = SAME_CLOCK,
    ) -> None:
        """clocks: what this host knows of the entry servers'; the entry server itself has the same."""
        self._clocks = clocks
        self._targets = targets
        self._tls = tls
        self._keys = keys
        self._lines: dict[Address, Line] = {}
        """Opened when first used; changed under the lock."""
        self._is_closed = False
        self._lock = threading.Lock()
        self._head = functools.lru_cache(maxsize=4096)(kserve.request_head)

    def connect(self) -> None:
        """Have connections made, in the background: the first batch should not wait for one."""
        servers = {(each.server.host, each.server.grpc_port): each.server for each in self._targets.values()}
        for (host, port), server in servers.items():
            with self._lock:
                line = self._line(server)
            name = f"connect {host}:{port}"
            threading.Thread(target=line.wake_up, args=(_CONNECT_S,), name=name, daemon=True).start()

    def keep(self, addresses: Collection[Address]) -> None:
        """Close connections to all other addresses, once the calls on them have ended."""
        with self._lock:
            for address in self._lines.keys() - addresses:
                line = self._lines.pop(address)
                line.is_left = True
                line.close_if_left()

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        inputs = self._targets[worker_of(wire)].inputs
        return self.send_tensors(wire, inputs, in_message(wire, tensors), batch, timeout_s)

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """See Transport."""
        return None

    def send_tensors(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int, timeout_s: float
    ) -> Outputs:
        """Have a batch served whose tensors, of these specs, come along. Raises HopFailure."""
        request = b"".join(self.request(wire, specs, tensors, batch))
        return self.send(worker_of(wire), wire.hop, request, timeout_s)

    def request(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int
    ) -> list[Buffer]:
        """See Bodies."""
        head = self._head(model_of(wire), tuple(specs), batch)
        ticket = kserve.text_parameter(ticket_codec.PARAMETER, self.ticket_text(wire, tensors))
        return kserve.request_pieces(head, ticket, tensors)

    def ticket_text(self, wire: WireTicket, tensors: Pieces) -> str:
        """See Bodies."""
        if wire.ticket is None:
            return ticket_codec.ANONYMOUS_PROBE_TEXT
        if self._targets[worker_of(wire)].same_host:
            return ticket_codec.encode(wire, self._keys)
        covered = tensors if self._tls is None else None
        sent_us = now_us()
        on_entry = sent_on_entry_us(self._clocks, wire.way.entry, sent_us)
        return ticket_codec.encode(wire, self._keys, sent_us, covered, on_entry)

    def send(self, worker: str, hop: int, request: bytes, timeout_s: float) -> Outputs:
        """Send a whole serialised request. Raises HopFailure."""
        try:
            line = self._line_to(self._targets[worker].server, timeout_s)
        except OSError as error:
            raise HopFailure(FailureKind.UNREACHABLE, hop, worker, repr(error)) from None
        try:
            return kserve.response_outputs(line.infer(worker, hop, request, timeout_s))
        except kserve.WireError as error:
            raise HopFailure(FailureKind.COMPUTE, hop, worker, str(error)) from None
        finally:
            with self._lock:
                line.calls -= 1
                line.close_if_left()

    def probe(self, worker: str, timeout_s: float) -> None:
        """Have `worker` answer a frame of zeros. Raises HopFailure."""
        target = self._targets[worker]
        self.send_tensors(probe_of(worker), target.inputs, zeros_for(target), 1, timeout_s)

    def close(self) -> None:
        """See Transport."""
        with self._lock:
            self._is_closed = True
        for line in self._lines.values():
            line.close()

    def _line_to(self, server: ServerAddress, timeout_s: float) -> Line:
        """One to use, until its count of calls is taken down. Raises OSError."""
        address = (server.host, server.grpc_port)
        if address not in self._lines:
            # The library is not to be loaded because a server has just ended: all threads would wait for it.
            socket.create_connection(address, timeout_s).close()
        with self._lock:
            line = self._line(server)
            line.calls += 1
            return line

    def _line(self, server: ServerAddress) -> Line:
        """Under the lock. Raises OSError where a file of TLS cannot be read, and after close()."""
        from python_backend.wire.grpc_line import Line

        key = (server.host, server.grpc_port)
        line = self._lines.get(key)
        if line is None:
            if self._is_closed:
                raise ConnectionAbortedError("the transport is closed")
            line = self._lines[key] = Line(server.grpc_address, self._tls, CHANNEL_OPTIONS)
        return line


def failure_from(status: Status, details: str, hop: int, worker: str) -> HopFailure:
    """What a call to `worker` that ended so says about it, or about a stage behind it."""
    told = from_wire(details)
    if told is not None:
        return told
    return HopFailure(_kind_of(status, details), hop, worker, f"{status.name}: {details[:300]}")


def _kind_of(status: Status, details: str) -> FailureKind:
    if SHARED_FRAMES in details:
        return FailureKind.NO_MEMORY  # a repository of an older generator: its stages have no such input
    if "Stub process" in details:
        return FailureKind.DEAD_STUB
    if status in (Status.DEADLINE_EXCEEDED, Status.CANCELLED):
        return FailureKind.TIMED_OUT
    if status is Status.UNAVAILABLE:
        return FailureKind.UNREACHABLE
    if status is Status.NOT_FOUND:
        return FailureKind.NOT_LOADED
    if status is Status.INVALID_ARGUMENT:
        return FailureKind.REFUSED
    return FailureKind.COMPUTE
