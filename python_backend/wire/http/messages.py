"""Inference requests and answers as Triton's HTTP endpoint has them, built and read by hand: a JSON header
and the tensors' bytes behind it.

Connections are blocking sockets, and time limits are the kernel's: with a time-out of Python's own, each wait
would give the interpreter's lock away three times instead of once, and somebody else has it then.
"""

from __future__ import annotations

import functools
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from planner.profile import TensorSpec
from python_backend.wire import kserve, ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.kserve import Buffer
from python_backend.wire.transport import Outputs, Pieces, size_of

_RECEIVE_BYTES: Final = 65_536
_JOINED_BYTES: Final = 65_536
"""Of a request: up to here one copy costs less than many pieces."""
_MOST_PIECES: Final = 512
"""In one call of the kernel, which takes 1,024."""
_HEADER_END: Final = b"\r\n\r\n"
_OK: Final = 200
_ID_FIRST: Final = b'{"id":"'
_Described = tuple[str, str, tuple[int, ...], int]
"""A tensor's name, datatype, shape, and bytes."""
_TIMEVAL = struct.Struct("@ll")


class Broken(Exception):
    """The connection ended before the answer did. begun: some of the answer had come."""

    def __init__(self, begun: bool) -> None:
        super().__init__("the connection ended before the answer did")
        self.begun = begun


class Answer:
    """HTTP status, JSON header, and the bytes behind it."""

    def __init__(self, status: int, header: bytes, content: memoryview) -> None:
        self.status = status
        self.header = header
        self.content = content


def request_head(specs: Sequence[TensorSpec], batch: int, size: int = 0) -> bytes:
    """The JSON of a request up to the ticket's text: the same for every batch of this size.

    size: bytes of the one tensor, where it is of type BYTES.
    """
    inputs = [
        {
            "name": spec.name,
            "datatype": spec.dtype,
            "shape": [batch, *spec.shape],
            "parameters": {"binary_data_size": size or spec.bytes_per_frame * batch},
        }
        for spec in specs
    ]
    parameters = '"parameters":{"binary_data_output":true'
    return f'{{"inputs":{json.dumps(inputs)},{parameters},"{ticket_codec.PARAMETER}":'.encode()


def request(worker: str, head: bytes, ticket_text: str, tensors: Pieces, id_: int) -> list[Buffer]:
    """A whole request, in pieces: one, or what goes before large tensors, and these where they lie. `id_`:
    Triton says it again in the answer.
    """
    text = json.encoder.encode_basestring_ascii(ticket_text).encode()  # as json.dumps, by a shorter way
    tail = b'},"id":"%d"}' % id_
    header_length = len(head) + len(text) + len(tail)
    length = header_length + size_of(tensors)
    lines = (
        f"POST /v2/models/{worker}/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Inference-Header-Content-Length: {header_length}\r\nContent-Length: {length}\r\n\r\n"
    )
    start = b"".join([lines.encode(), head, text, tail])
    body = [piece for pieces in tensors for piece in pieces]
    return [start, *body] if length > _JOINED_BYTES else [b"".join([start, *body])]


def is_to(answer: Answer, id_: int) -> bool:
    """Whether it is the answer to this request, or an error, which has no id."""
    return answer.status != _OK or b'"id":"%d"' % id_ in answer.header


def send_now(connection: socket.socket, message: list[Buffer]) -> list[Buffer]:
    """Send what the connection's buffers take without waiting; returns the rest. Raises OSError."""
    try:
        sent = connection.sendmsg(message[:_MOST_PIECES], (), socket.MSG_DONTWAIT)
    except BlockingIOError:
        sent = 0
    return _rest(message, sent)


def send(connection: socket.socket, message: list[Buffer], end_us: int) -> None:
    """Raises OSError, TimeoutError at `end_us`."""
    rest = message
    while rest:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _time_left(end_us))
        try:
            sent = connection.sendmsg(rest[:_MOST_PIECES])
        except BlockingIOError:
            raise TimeoutError from None
        rest = _rest(rest, sent)


def _rest(message: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of it after its first `sent` bytes."""
    index = 0
    while index < len(message) and sent >= len(message[index]):
        sent -= len(message[index])
        index += 1
    left = message[index:]
    if sent > 0:
        left[0] = memoryview(left[0])[sent:]
    return left


def receive(connection: socket.socket, end_us: int) -> Answer:
    """The answer to the one request on this connection. Raises OSError, Broken, TimeoutError at `end_us`, and
    ValueError for what is no HTTP.
    """
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
    return Answer(int(received[9:12]), bytes(content[:length]), content[length:])


def outputs_of(answer: Answer) -> Outputs:
    """Its tensors. Raises KeyError, ValueError, TypeError."""
    outputs = {}
    position = 0
    for name, datatype, shape, size in _described(_without_id(answer.header)):
        end = position + size
        outputs[name] = kserve.array_of(datatype, answer.content[position:end], shape)
        position = end
    return outputs


def _without_id(header: bytes) -> bytes:
    """The same object, but for the number that Triton puts first: then it is that of many an answer."""
    if not header.startswith(_ID_FIRST):
        return header
    start = header.find(b'",', len(_ID_FIRST)) + 2
    return b"{" + header[start:]


def _read_described(header: bytes) -> tuple[_Described, ...]:
    return tuple(
        [
            (
                output["name"],
                output["datatype"],
                tuple(output["shape"]),
                output["parameters"]["binary_data_size"],
            )
            for output in json.loads(header)["outputs"]
        ]
    )


_described = functools.lru_cache(maxsize=1024)(_read_described)
"""Of an answer's tensors: to read the JSON takes longer than all else of it. Errors are not kept."""


def error_of(content: Buffer) -> str | None:
    """What Triton says is wrong; None if this is not how Triton says it."""
    try:
        body: Any = json.loads(bytes(content))
        return str(body["error"])
    except (ValueError, KeyError, TypeError):
        return None


def _receive(connection: socket.socket, received: bytearray, end_us: int) -> None:
    piece = next_piece(connection, end_us)
    if not piece:
        raise Broken(begun=bool(received))
    received += piece


def next_piece(connection: socket.socket, end_us: int) -> bytes:
    """What comes next; empty where the other side has closed it. Raises OSError, TimeoutError at `end_us`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _time_left(end_us))
    try:
        return connection.recv(_RECEIVE_BYTES)
    except BlockingIOError:
        raise TimeoutError from None


def waiting_piece(connection: socket.socket) -> bytes | None:
    """The same of what has come by now; None where nothing has. Raises OSError."""
    try:
        return connection.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None


def left_s(end_us: int) -> float:
    """Seconds until then. Raises TimeoutError when there are none."""
    return _left_us(end_us) / 1e6


def _time_left(end_us: int) -> bytes:
    """As a struct timeval. Raises TimeoutError when there is none."""
    return _TIMEVAL.pack(*divmod(_left_us(end_us), 1_000_000))


def _left_us(end_us: int) -> int:
    left_us = end_us - now_us()
    if left_us <= 0:
        raise TimeoutError
    return left_us


def _read_fields(head: bytes) -> dict[bytes, bytes]:
    lines = head.split(b"\r\n")[1:]
    return {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
    }


_fields = functools.lru_cache(maxsize=1024)(_read_fields)
"""Of an answer's head, by name in lower case: answers of one kind and size have the same."""
