"""Requests as no client library would send them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException

_FRAME = 16_384
_HEADERS, _SETTINGS, _CONTINUATION = 1, 4, 9


def http(
    host: str, port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of one request; 0 where the connection ended."""
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException):
        return 0, b""
    finally:
        connection.close()


def raw(host: str, port: int, pieces: Iterator[bytes]) -> bytes:
    """What comes back for these bytes, at most 64 KiB; nothing is read before all are sent or refused."""
    with socket.create_connection((host, port), timeout=20) as connection:
        with contextlib.suppress(OSError):  # refused on the way: what was said is still to be read
            for piece in pieces:
                connection.sendall(piece)
        try:
            return connection.recv(65_536)
        except OSError:
            return b""


def in_small_chunks(path: str, chunks: int) -> Iterator[bytes]:
    """A POST of so many chunks of one byte."""
    yield f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for _ in range(0, chunks, 1_000):
        yield b"1\r\n \r\n" * min(1_000, chunks)
    yield b"0\r\n\r\n"


def closing_with_a_large_body(path: str, size: int) -> Iterator[bytes]:
    """A POST of a large body with `Connection: close`, as Python's urllib sends it."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n"
    yield f"{head}Inference-Header-Content-Length: 2\r\n\r\n".encode()
    yield b"{}"
    for start in range(2, size, 65_536):
        yield bytes(min(65_536, size - start))


def grpc_call(host: str, port: int, path: str, key: bytes, value: bytes) -> bytes:
    """What an HTTP/2 server says to an empty gRPC message with this header, which is sent as it is."""
    fields = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"x"),
        (b"te", b"trailers"), (b"content-type", b"application/grpc"), (key, value),
    )  # fmt: skip
    block = b"".join(b"\0" + _text(name) + _text(content) for name, content in fields)
    parts = [block[start : start + _FRAME] for start in range(0, len(block), _FRAME)]
    frames = [_frame(_SETTINGS, 0, 0, b"")]
    for index, part in enumerate(parts):
        kind = _CONTINUATION if index else _HEADERS
        frames.append(_frame(kind, 4 if index + 1 == len(parts) else 0, 1, part))
    frames.append(_frame(0, 1, 1, bytes(5)))
    said = b""
    with socket.create_connection((host, port), timeout=3) as connection:
        try:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(frames))
            while (piece := connection.recv(65_536)) and b"grpc-status" not in said:
                said += piece
        except OSError:
            pass  # it has said all that it will
    return said


def _text(value: bytes) -> bytes:
    """A string of HPACK, as it is."""
    length = len(value)
    if length < 127:
        return bytes([length]) + value
    coded, length = bytearray([127]), length - 127
    while length >= 128:
        coded.append(length % 128 + 128)
        length //= 128
    return bytes([*coded, length]) + value


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
