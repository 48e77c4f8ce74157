"""HTTP/2 as one gRPC call at a time needs it (RFC 9113): frames, and header lists of requests and answers.

Header lists are compressed without tables (RFC 7541): ours are written out, servers are asked for the same.
So a list has the same bytes each time, and is read once.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote

from python_backend.wire.kserve import Buffer

DATA: Final = 0
HEADERS: Final = 1
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5

FRAME_HEAD_BYTES: Final = 9
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384
LARGEST_WINDOW: Final = (1 << 31) - 1
LAST_STREAM: Final = (1 << 31) - 1
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_SETTING = struct.Struct("!HI")
_MESSAGE_HEAD = struct.Struct("!BI")
MESSAGE_HEAD_BYTES: Final = 5
"""Of a gRPC message: whether it is compressed, and its length."""
_POST: Final = b"\x83"
_SCHEME_HTTP: Final = b"\x86"
_LITERAL: Final = b"\x00"
"""A header that enters no table, its name written out."""


def frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """What comes before a frame's content."""
    return (length << 40 | kind << 32 | flags << 24).to_bytes(8, "big")[:5] + stream.to_bytes(4, "big")


def settings(values: Mapping[int, int]) -> bytes:
    """A frame that tells them."""
    content = b"".join([_SETTING.pack(name, value) for name, value in values.items()])
    return frame_head(len(content), SETTINGS, 0, 0) + content


def settings_of(content: bytes) -> list[tuple[int, int]]:
    """Name and value of each."""
    whole = len(content) - len(content) % _SETTING.size
    return [(int(name), int(value)) for name, value in _SETTING.iter_unpack(content[:whole])]


def window_update(stream: int, more: int) -> bytes:
    """A frame that lets the other side send so many bytes more; stream 0: on the connection."""
    return frame_head(4, WINDOW_UPDATE, 0, stream) + more.to_bytes(4, "big")


def message_head(length: int) -> bytes:
    """What comes before a gRPC message."""
    return _MESSAGE_HEAD.pack(0, length)


@functools.lru_cache(maxsize=256)
def request_headers(path: str, authority: str) -> bytes:
    """The header list of a gRPC call."""
    rest = (
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return _POST + _SCHEME_HTTP + b"".join([_LITERAL + _text(name) + _text(value) for name, value in rest])


def _text(text: str) -> bytes:
    """A string literal without Huffman's code."""
    raw = text.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    out, rest = bytearray([127]), len(raw) - 127
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out) + raw


def headers_of(block: bytes) -> Mapping[str, str]:
    """The headers in a block that used no table. Raises ValueError."""
    return dict(_headers_of(block))


@functools.lru_cache(maxsize=256)
def _headers_of(block: bytes) -> Sequence[tuple[str, str]]:
    # Imported here: only hops between hosts need it.
    import hpack

    decoder = hpack.Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    try:
        return [(_str(name), unquote(_str(value))) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError as error:
        raise ValueError(f"unreadable headers: {error}") from error


def _str(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class Cursor:
    """Goes through a message once, giving its next bytes as views of the pieces that they lie in."""

    def __init__(self, message: Sequence[Buffer]) -> None:
        self._message = message
        self._index = 0
        self._offset = 0

    def take(self, size: int) -> list[Buffer]:
        """The next `size` bytes, which there must be."""
        found: list[Buffer] = []
        while size > 0:
            piece = self._message[self._index]
            start = self._offset
            end = start + size
            length = len(piece)
            if end < length:
                found.append(memoryview(piece)[start:end])
                self._offset = end
                break
            if length > start:
                found.append(memoryview(piece)[start:] if start else piece)
                size -= length - start
            self._index += 1
            self._offset = 0
        return found
