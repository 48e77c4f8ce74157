"""Moves a batch to a worker's server and brings the answer back: the one interface, and gRPC as its first
kind.

Rules: an infer call blocks its thread, always has a time limit, and ends in outputs or in a HopFailure.
Tensors are given as the pieces they are made of, in the stage's positional order, so that forming a batch
copies nothing.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc

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
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.tls import open_channel

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
    """That a batch is sent to next."""
    assert wire.ticket is not None
    return wire.ticket.hops[wire.hop].worker


def model_of(wire: WireTicket) -> str:
    """The Triton model that a batch is sent to next: that worker, or the ensemble of a chain that begins with
    it.
    """
    return wire.chain or worker_of(wire)


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
        self._probe_text = ticket_codec.ANONYMOUS_PROBE_TEXT
        self._lines: dict[Address, _Line] = {}
        """Changed under the lock."""
        self._lock = threading.Lock()
        for target in targets.values():
            self._open(target.server)
        self._head = functools.lru_cache(maxsize=4096)(kserve.request_head)

    def connect(self) -> None:
        """Have connections made, in the background: the first batch should not wait for one."""
        for (host, port), line in self._lines.items():
            name = f"connect {host}:{port}"
            threading.Thread(target=_wake_up, args=(line.channel,), name=name, daemon=True).start()

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
        if self._targets[worker_of(wire)].same_host:
            return ticket_codec.encode(wire, self._keys)
        covered = tensors if self._tls is None else None
        sent_us = now_us()
        on_entry = sent_on_entry_us(self._clocks, wire.way.entry, sent_us)
        return ticket_codec.encode(wire, self._keys, sent_us, covered, on_entry)

    def send(self, worker: str, hop: int, request: bytes, timeout_s: float) -> Outputs:
        """Send a whole serialised request. Raises HopFailure."""
        line = self._line_to(self._targets[worker].server)
        try:
            answer = line.call(request, timeout=timeout_s)
            return kserve.response_outputs(answer)
        except grpc.RpcError as error:
            raise failure_of(error, hop, worker) from None
        except kserve.WireError as error:
            raise HopFailure(FailureKind.COMPUTE, hop, worker, str(error)) from None
        finally:
            with self._lock:
                line.calls -= 1
                line.close_if_left()

    def probe(self, worker: str, timeout_s: float) -> None:
        """Have `worker` answer a frame of zeros. Raises HopFailure."""
        target = self._targets[worker]
        zeros = [[zero_of(spec)] for spec in target.inputs]
        ticket = kserve.text_parameter(ticket_codec.PARAMETER, self._probe_text)
        head = self._head(worker, target.inputs, 1)
        self.send(worker, 0, kserve.request_bytes(head, ticket, zeros), timeout_s)

    def close(self) -> None:
        """See Transport."""
        for line in self._lines.values():
            line.channel.close()

    def _line_to(self, server: ServerAddress) -> _Line:
        """One to use, until its count of calls is taken down."""
        with self._lock:
            line = self._lines.get((server.host, server.grpc_port)) or self._open(server)
            line.calls += 1
            return line

    def _open(self, server: ServerAddress) -> _Line:
        key = (server.host, server.grpc_port)
        if key not in self._lines:
            self._lines[key] = _Line(open_channel(address_of(server), self._tls, CHANNEL_OPTIONS))
        return self._lines[key]


class _Line:
    """A connection. calls: under way on it. is_left: no new ones are to come."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel: Final = channel
        self.call: Final = _unary(channel, kserve.INFER_METHOD)
        self.calls = 0
        self.is_left = False

    def close_if_left(self) -> None:
        if self.is_left and self.calls == 0:
            self.channel.close()


def _unary(channel: grpc.Channel, method: str) -> Any:
    """A call that, without serialisers, takes and gives the bytes as they are on the wire."""
    return channel.unary_unary(method)


def address_of(server: ServerAddress) -> str:
    """Where a server takes gRPC calls."""
    return server.grpc_address


def _wake_up(channel: grpc.Channel) -> None:
    """One call that waits for the server; that it fails is no harm."""
    live = _unary(channel, kserve.LIVE_METHOD)
    with contextlib.suppress(grpc.RpcError, ValueError):
        live(b"", timeout=_CONNECT_S, wait_for_ready=True)


def failure_of(error: grpc.RpcError, hop: int, worker: str) -> HopFailure:
    """What a failed call to `worker` says about it, or about a stage behind it."""
    return failure_from(error.code(), error.details() or "", hop, worker)


def failure_from(code: grpc.StatusCode, details: str, hop: int, worker: str) -> HopFailure:
    """As failure_of, for a status code and its text."""
    told = from_wire(details)
    if told is not None:
        return told
    return HopFailure(_kind_of(code, details), hop, worker, f"{code.name}: {details[:300]}")


def _kind_of(code: grpc.StatusCode, details: str) -> FailureKind:
    if SHARED_FRAMES in details:
        return FailureKind.NO_MEMORY  # a repository of an older generator: its stages have no such input
    if "Stub process" in details:
        return FailureKind.DEAD_STUB
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return FailureKind.TIMED_OUT
    if code is grpc.StatusCode.UNAVAILABLE:
        return FailureKind.UNREACHABLE
    if code is grpc.StatusCode.NOT_FOUND:
        return FailureKind.NOT_LOADED
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return FailureKind.REFUSED
    return FailureKind.COMPUTE
