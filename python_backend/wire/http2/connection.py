"""A connection to a gRPC server over plain TCP that carries one call at a time.

Rules
- A server is heard before the first call: its windows and frames are as large as it says.
- What is sent goes out from where it lies, in frames as large as the server takes, no more at once than its
  windows have room for; while there is none, its frames are read.
- Its windows are ours alone: the same socket carries nobody else's call. Ours have no bounds that matter.
- A server that refuses a stream, or goes away before it has seen it, has not begun the call: Unserved.
- Every wait ends with its call's time.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

from python_backend.wire.http import messages
from python_backend.wire.http.messages import Broken
from python_backend.wire.http2 import frames
from python_backend.wire.kserve import Buffer

_MORE_AFTER: Final = 1 << 24
"""Bytes of answers after which the server gets room for as many more."""
_REFUSED: Final = 7


class Unserved(Exception):
    """The connection takes no call any more, and this one was not begun by the server."""


class Reset(Exception):
    """The server ended the stream with this error code of HTTP/2."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the server ended the call with HTTP/2 error {code}")
        self.code = code


class Answered:
    """A call's status (0: good), what was said of it, and the message; empty where there was none."""

    def __init__(self, status: int, said: str, message: bytes) -> None:
        self.status = status
        self.said = said
        self.message = message


class Http2Connection:
    """See the module. For one thread at a time."""

    def __init__(self, connection: socket.socket, authority: str) -> None:
        """Raises OSError."""
        self.socket: Final = connection
        self._authority = authority
        self._stream = -1
        self._frame = frames.DEFAULT_FRAME
        self._initial_window = frames.DEFAULT_WINDOW
        self._window = frames.DEFAULT_WINDOW
        """Of the connection; `_stream_window`: of the call that is made."""
        self._stream_window = 0
        self._received = bytearray()
        self._taken = 0
        self._is_heard = False
        """The server has told its settings."""
        self._is_left = False
        """It takes no other call: the server goes away, or did not wait for a message's end."""
        hello = {
            frames.HEADER_TABLE_SIZE: 0,
            frames.ENABLE_PUSH: 0,
            frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW,
        }
        more = frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW
        connection.sendall(frames.PREFACE + frames.settings(hello) + frames.window_update(0, more))

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def shutdown(self, how: int) -> None:
        """As of a socket. Raises OSError."""
        self.socket.shutdown(how)

    @property
    def is_good(self) -> bool:
        """Whether another call can be made on it."""
        return not self._is_left and self._stream + 2 < frames.LAST_STREAM

    def call(
        self,
        path: str,
        message: Sequence[Buffer],
        end_us: int,
        begun: Callable[[int], None] = lambda size: None,
    ) -> Answered:
        """Make a call. begun: told before anything of it goes out how many bytes of this connection it takes,
        or a few less. Raises OSError, TimeoutError at `end_us`, Broken, Unserved, Reset, and ValueError
        for what is no HTTP/2.
        """
        self._stream += 2
        self._stream_window = self._initial_window
        answer = _Answer()
        self._hear_waiting(answer)
        while not self._is_heard:
            self._hear(answer, end_us)
        if self._is_left:
            raise Unserved("the server goes away")
        whole = [frames.message_head(sum([len(piece) for piece in message])), *message]
        size = sum([len(piece) for piece in whole])
        begun(size + frames.FRAME_HEAD_BYTES * -(-size // self._frame))
        self._send(path, frames.Cursor(whole), size, answer, end_us)
        while not answer.ended:
            self._hear(answer, end_us)
        return answer.told()

    def _send(self, path: str, whole: frames.Cursor, size: int, answer: _Answer, end_us: int) -> None:
        head = frames.request_headers(path, self._authority)
        out: list[Buffer] = [
            frames.frame_head(len(head), frames.HEADERS, frames.END_HEADERS, self._stream),
            head,
        ]
        sent = 0
        while sent < size and not answer.ended:
            room = min(self._window, self._stream_window, size - sent)
            if room <= 0 and not out:
                self._hear(answer, end_us)
                continue
            end = sent + max(0, room)
            out += self._framed(whole, end - sent, end == size)
            self._window -= end - sent
            self._stream_window -= end - sent
            sent = end
            messages.send(self.socket, out, end_us)
            out = []
            self._hear_waiting(answer)
        if sent < size:  # the answer came first
            self._is_left = True

    def _framed(self, whole: frames.Cursor, size: int, is_last: bool) -> list[Buffer]:
        out: list[Buffer] = []
        while size > 0:
            length = min(size, self._frame)
            size -= length
            flags = frames.END_STREAM if is_last and size == 0 else 0
            out.append(frames.frame_head(length, frames.DATA, flags, self._stream))
            out += whole.take(length)
        return out

    def _hear_waiting(self, answer: _Answer) -> None:
        """Take what has come by now."""
        piece = messages.waiting_piece(self.socket)
        if piece is not None:
            self._take(piece, answer)

    def _hear(self, answer: _Answer, end_us: int) -> None:
        self._take(messages.next_piece(self.socket, end_us), answer)

    def _take(self, piece: bytes, answer: _Answer) -> None:
        if not piece:
            raise Broken(begun=answer.begun)
        received = self._received
        received += piece
        start = 0
        while len(received) - start >= frames.FRAME_HEAD_BYTES:
            head = bytes(received[start : start + frames.FRAME_HEAD_BYTES])
            length = int.from_bytes(head[:3], "big")
            end = start + frames.FRAME_HEAD_BYTES + length
            if length > frames.DEFAULT_FRAME:
                raise ValueError("what answers speaks no HTTP/2, or in larger frames than it was told")
            if end > len(received):
                break
            stream = int.from_bytes(head[5:], "big") & frames.LAST_STREAM
            self._heard(
                head[3], head[4], stream, bytes(received[start + frames.FRAME_HEAD_BYTES : end]), answer
            )
            start = end
        del received[:start]

    def _heard(self, kind: int, flags: int, stream: int, content: bytes, answer: _Answer) -> None:
        if kind == frames.DATA:
            self._data(flags, stream, content, answer)
        elif kind in (frames.HEADERS, frames.CONTINUATION):
            if stream == self._stream:
                answer.headers(kind, flags, content)
        elif kind == frames.WINDOW_UPDATE:
            more = int.from_bytes(content, "big")
            if stream == 0:
                self._window += more
            elif stream == self._stream:
                self._stream_window += more
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._settings(content)
        elif kind == frames.PING and not flags & frames.ACK:
            self.socket.sendall(frames.frame_head(len(content), frames.PING, frames.ACK, 0) + content)
        elif kind == frames.RST_STREAM and stream == self._stream:
            self._reset(int.from_bytes(content, "big"), answer)
        elif kind == frames.GOAWAY:
            self._is_left = True
            last = int.from_bytes(content[:4], "big") & frames.LAST_STREAM
            if last < self._stream and not answer.ended:
                raise Unserved("the server goes away")

    def _data(self, flags: int, stream: int, content: bytes, answer: _Answer) -> None:
        self._taken += len(content)
        if self._taken >= _MORE_AFTER:
            self.socket.sendall(frames.window_update(0, self._taken))
            self._taken = 0
        if stream == self._stream:
            answer.data(flags, content)

    def _settings(self, content: bytes) -> None:
        self._is_heard = True
        for name, value in frames.settings_of(content):
            if name == frames.INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif name == frames.MAX_FRAME_SIZE:
                if value < frames.DEFAULT_FRAME:
                    raise ValueError(
                        f"frames of {value} bytes at most; HTTP/2 asks for {frames.DEFAULT_FRAME}"
                    )
                self._frame = value
        self.socket.sendall(frames.frame_head(0, frames.SETTINGS, frames.ACK, 0))

    def _reset(self, code: int, answer: _Answer) -> None:
        if answer.ended:  # with NO_ERROR, by a server that has answered and reads no further
            return
        if code == _REFUSED:
            raise Unserved("the server refused the stream")
        raise Reset(code)


def connected(connection: socket.socket, address: tuple[str, int]) -> Http2Connection:
    """A connection over this socket, which leads to that address. Raises OSError."""
    host, port = address
    return Http2Connection(connection, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


class _Answer:
    """What has come of it."""

    def __init__(self) -> None:
        self.begun = False
        self.ended = False
        self._block = b""
        self._ends = False
        self._headers: dict[str, str] = {}
        self._data = bytearray()

    def headers(self, kind: int, flags: int, content: bytes) -> None:
        self.begun = True
        if kind == frames.HEADERS:
            self._ends = bool(flags & frames.END_STREAM)
            self._block = _unpadded(flags, content, 5 if flags & frames.PRIORITY else 0)
        else:
            self._block += content
        if flags & frames.END_HEADERS:
            self._headers.update(frames.headers_of(self._block))
            self.ended = self._ends

    def data(self, flags: int, content: bytes) -> None:
        self.begun = True
        self._data += _unpadded(flags, content, 0)
        self.ended = bool(flags & frames.END_STREAM)

    def told(self) -> Answered:
        """Raises ValueError."""
        if "grpc-status" not in self._headers:
            raise ValueError(f"an answer without grpc-status; HTTP status {self._headers.get(':status')}")
        status = int(self._headers["grpc-status"])
        message = bytes(self._data)
        if status == 0 and len(message) < frames.MESSAGE_HEAD_BYTES:
            raise ValueError("an answer without a message")
        return Answered(status, self._headers.get("grpc-message", ""), message[frames.MESSAGE_HEAD_BYTES :])


def _unpadded(flags: int, content: bytes, skipped: int) -> bytes:
    if not flags & frames.PADDED:
        return content[skipped:] if skipped else content
    if not content:
        raise ValueError("a padded frame that does not say by how much")
    end = len(content) - content[0]
    return content[1 + skipped : end]
