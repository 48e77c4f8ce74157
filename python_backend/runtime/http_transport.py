"""Hops within a host through Triton's HTTP endpoint, over plain sockets that stay open.

A small message costs a third of the processor time of a gRPC call here (0.1 against 0.32 ms) and a quarter
less in the server, which counts once per batch on both sides of every hop.

Rules
- Only small messages to servers of this host go this way, also those that say where in shared memory a batch
  lies; all else goes through gRPC bodies. So does everything if the server has no HTTP endpoint.
- A connection carries one request at a time. One that was kept and turns out closed, as after a restart of
  its server, is replaced and the request sent again: execution is at least once.
- Every wait has the time limit of its call; a connection whose call ran out of time is closed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
from collections import deque
from collections.abc import Mapping, Sequence
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

    def __init__(self, grpc: GrpcTransport, targets: Mapping[str, Target]) -> None:
        self._grpc = grpc
        self._targets = targets
        self._idle: dict[str, deque[_Connection]] = {
            target.server.name: deque() for target in targets.values()
        }
        self._closed = False
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
        self._closed = True
        for connections in self._idle.values():
            while connections:
                connections.pop().close()
        self._grpc.close()

    def _call(self, server: ServerAddress, request: bytes, timeout_s: float) -> tuple[int, bytes, memoryview]:
        """(status, JSON header of the answer, rest)."""
        end_us = now_us() + round(timeout_s * 1e6)
        idle = self._idle[server.name]
        while True:
            kept = _pop(idle)
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
            if self._closed:
                connection.close()
            else:
                idle.append(connection)
            return answer


class _Broken(Exception):
    """The connection ended before the answer did. begun: some of the answer had come."""

    def __init__(self, begun: bool) -> None:
        super().__init__("the connection ended before the answer did")
        self.begun = begun


def _pop(idle: deque[_Connection]) -> _Connection | None:
    with contextlib.suppress(IndexError):
        return idle.pop()
    return None


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
