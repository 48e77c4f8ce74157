"""Hops within a host through Triton's HTTP endpoint, over plain sockets that stay open.

A small message costs a third of the processor time of a gRPC call here (0.1 against 0.32 ms) and a quarter
less in the server, which counts once per batch on both sides of every hop.

Rules
- Only small messages to servers of this host go this way, also those that say where in shared memory a batch
  lies; all else goes through gRPC bodies. So does everything if the server has no HTTP endpoint.
- A connection carries one request at a time. One that was kept and turns out closed, as after a restart of
  its server, is replaced and the request sent again: execution is at least once.
- Every wait has the time limit of its call; a connection whose call ran out of time is closed.
- A connection that nothing was sent on for IDLE_S is closed, so that a burst leaves no files behind at either
  end. The one used last is used next, so those that a lighter load does not need grow old.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from planner.manifest import ServerAddress
from planner.profile import TensorSpec
from python_backend.runtime import kserve, ticket_codec
from python_backend.runtime.clock import now_us
from python_backend.runtime.hop_failure import FailureKind, HopFailure
from python_backend.runtime.kserve import Buffer
from python_backend.runtime.ticket_codec import WireTicket
from python_backend.runtime.transport import GrpcTransport, Outputs, Pieces, Target, failure_from

LARGEST_BYTES = 131_072
"""Of tensors in a message; above this gRPC's copies cost no more than HTTP's."""
IDLE_S = 5.0
_RECEIVE_BYTES = 65_536
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND,
    499: grpc.StatusCode.CANCELLED, 503: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip
_HEADER_END = b"\r\n\r\n"
_Connection = socket.socket


class _NoEndpoint(Exception):
    """Nobody listens: the server is gone, or serves no HTTP."""


class HttpTransport:
    """See the module. Thread-safe."""

    def __init__(self, grpc: GrpcTransport, targets: Mapping[str, Target], idle_s: float = IDLE_S) -> None:
        self._grpc = grpc
        self._targets = targets
        self._idle = _IdleConnections({target.server.name for target in targets.values()}, idle_s)
        self._head = functools.lru_cache(maxsize=4096)(_head)

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        assert wire.ticket is not None
        target = self._targets[wire.ticket.hops[wire.hop].worker]
        sizes = [sum(map(len, pieces)) for pieces in tensors]
        if not target.same_host or sum(sizes) > LARGEST_BYTES:
            return self._grpc.infer(wire, tensors, batch, timeout_s)
        return self.send(wire, target.inputs, tensors, batch, timeout_s)

    def send(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int, timeout_s: float
    ) -> Outputs:
        """Have a batch served whose tensors, of these specs, come along. Raises HopFailure."""
        assert wire.ticket is not None
        worker = wire.ticket.hops[wire.hop].worker
        target = self._targets[worker]
        head = self._head(worker, tuple(specs), batch)
        text = json.dumps(self._grpc.ticket_text(wire)).encode()
        body = b"".join([head, text, b"}}", *(piece for pieces in tensors for piece in pieces)])
        request = _request(worker, len(head) + len(text) + 2, body)
        try:
            status, header, content = self._call(target.server, request, timeout_s)
        except _NoEndpoint:
            return self._grpc.send_tensors(wire, specs, tensors, batch, timeout_s)
        except TimeoutError:
            reason = f"no answer within {timeout_s * 1e3:.0f} ms"
            raise HopFailure(FailureKind.TIMED_OUT, wire.hop, worker, reason) from None
        except (OSError, _Broken) as error:
            raise HopFailure(FailureKind.UNREACHABLE, wire.hop, worker, repr(error)) from None
        if status != 200:
            said = _error(content)
            if said is None:  # no tritonserver listens there
                return self._grpc.send_tensors(wire, specs, tensors, batch, timeout_s)
            raise failure_from(_CODES.get(status, grpc.StatusCode.INTERNAL), said, wire.hop, worker)
        try:
            return _outputs(header, content)
        except (KeyError, ValueError, TypeError) as error:
            raise HopFailure(FailureKind.COMPUTE, wire.hop, worker, f"unreadable answer: {error!r}") from None

    def close(self) -> None:
        """See Transport."""
        self._idle.close()
        self._grpc.close()

    def _call(self, server: ServerAddress, request: bytes, timeout_s: float) -> tuple[int, bytes, memoryview]:
        """(status, JSON header of the answer, rest)."""
        end_us = now_us() + round(timeout_s * 1e6)
        while True:
            kept = self._idle.take(server.name)
            connection = kept or _connect(server, timeout_s)
            try:
                answer = _exchange(connection, request, end_us)
            except (ConnectionError, _Broken) as error:
                connection.close()
                if kept is None or (isinstance(error, _Broken) and error.begun):
                    raise
                continue  # closed while it was idle; those before it in the queue are as old or older
            except BaseException:
                connection.close()
                raise
            self._idle.give(server.name, connection)
            return answer


class _IdleConnections:
    """Open connections by server, the one used last on top. Thread-safe. A thread closes what is old; it
    lives while there is any.
    """

    def __init__(self, servers: Collection[str], idle_s: float) -> None:
        self._idle_us = round(idle_s * 1e6)
        self._kept: dict[str, deque[tuple[int, _Connection]]] = {server: deque() for server in servers}
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._closer: threading.Thread | None = None

    def take(self, server: str) -> _Connection | None:
        """One to use; None when there is none."""
        with contextlib.suppress(IndexError):
            return self._kept[server].pop()[1]
        return None

    def give(self, server: str, connection: _Connection) -> None:
        """Its call is over."""
        self._kept[server].append((now_us(), connection))
        if self._closing.is_set():
            self._close_all()
        elif self._closer is None:
            self._start_closer()

    def close(self) -> None:
        """Close all, also those that are given back later."""
        self._closing.set()
        with self._lock:
            closer = self._closer
        if closer is not None:
            closer.join()
        self._close_all()

    def _close_all(self) -> None:
        for server in self._kept:
            while (connection := self.take(server)) is not None:
                connection.close()

    def _start_closer(self) -> None:
        with self._lock:
            if self._closer is None and not self._closing.is_set():
                self._closer = threading.Thread(target=self._close_old, name="idle connections", daemon=True)
                self._closer.start()

    def _close_old(self) -> None:
        while not self._closing.wait(self._idle_us / 2e6):
            for kept in self._kept.values():
                self._close_old_of(kept)
            if not any(self._kept.values()) and self._may_leave():
                return

    def _may_leave(self) -> bool:
        """Whoever gives a connection back adds it first and looks for the thread then; this is the other way
        round, so that one of both sees the other.
        """
        with self._lock:
            self._closer = None
            if any(self._kept.values()):
                self._closer = threading.current_thread()
            return self._closer is None

    def _close_old_of(self, kept: deque[tuple[int, _Connection]]) -> None:
        before_us = now_us() - self._idle_us
        with contextlib.suppress(IndexError):
            while kept[0][0] < before_us:
                since_us, connection = kept.popleft()
                if since_us >= before_us:  # the old one was taken at this moment
                    kept.appendleft((since_us, connection))
                    return
                connection.close()


class _Broken(Exception):
    """The connection ended before the answer did. begun: some of the answer had come."""

    def __init__(self, begun: bool) -> None:
        super().__init__("the connection ended before the answer did")
        self.begun = begun


def _connect(server: ServerAddress, timeout_s: float) -> _Connection:
    try:
        connection = socket.create_connection((server.host, server.http_port), timeout=timeout_s)
    except ConnectionRefusedError as error:
        raise _NoEndpoint from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _exchange(connection: _Connection, request: bytes, end_us: int) -> tuple[int, bytes, memoryview]:
    connection.settimeout(_left_s(end_us))
    connection.sendall(request)
    received = bytearray()
    while (end := received.find(_HEADER_END)) < 0:
        _receive(connection, received, end_us)
    fields = _fields(bytes(received[:end]))
    start = end + len(_HEADER_END)
    whole = start + int(fields.get(b"content-length", b"0"))
    while len(received) < whole:
        _receive(connection, received, end_us)
    content = memoryview(bytes(received))[start:whole]
    length = int(fields.get(b"inference-header-content-length", b"0"))
    return int(received[9:12]), bytes(content[:length]), content[length:]


def _receive(connection: _Connection, received: bytearray, end_us: int) -> None:
    connection.settimeout(_left_s(end_us))
    piece = connection.recv(_RECEIVE_BYTES)
    if not piece:
        raise _Broken(begun=bool(received))
    received += piece


def _left_s(end_us: int) -> float:
    left_us = end_us - now_us()
    if left_us <= 0:
        raise TimeoutError
    return left_us / 1e6


def _fields(head: bytes) -> dict[bytes, bytes]:
    lines = head.split(b"\r\n")[1:]
    return {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
    }


def _request(worker: str, header_length: int, body: bytes) -> bytes:
    lines = (
        f"POST /v2/models/{worker}/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Inference-Header-Content-Length: {header_length}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return lines.encode() + body


def _head(worker: str, specs: Sequence[TensorSpec], batch: int) -> bytes:
    """The JSON of a request up to the ticket's text."""
    inputs = [
        {
            "name": spec.name,
            "datatype": spec.dtype,
            "shape": [batch, *spec.shape],
            "parameters": {"binary_data_size": spec.bytes_per_frame * batch},
        }
        for spec in specs
    ]
    parameters = '"parameters":{"binary_data_output":true'
    return f'{{"inputs":{json.dumps(inputs)},{parameters},"{ticket_codec.PARAMETER}":'.encode()


def _outputs(header: bytes, content: memoryview) -> Outputs:
    outputs = {}
    position = 0
    for output in json.loads(header)["outputs"]:
        end = position + output["parameters"]["binary_data_size"]
        array = np.frombuffer(content[position:end], kserve.NUMPY_OF[output["datatype"]])
        outputs[output["name"]] = array.reshape(tuple(output["shape"]))
        position = end
    return outputs


def _error(content: Buffer) -> str | None:
    """What Triton says is wrong; None if this is not how Triton says it."""
    try:
        body: Any = json.loads(bytes(content))
        return str(body["error"])
    except (ValueError, KeyError, TypeError):
        return None
