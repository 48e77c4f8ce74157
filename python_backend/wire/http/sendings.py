"""Messages on their way to other hosts, and what the kernel says of them: how much of each the receiver has
not acknowledged yet, and when it last took something.

Rules
- Nothing is asked while all goes as planned: a message costs one question to the kernel, when it is sent.
- A receiver that has closed its window takes nothing, though its kernel answers each probe: its process is
  stuck.
- What the kernel does not know (a socket that is closed, an older Linux) is None, and taken for not moving.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from python_backend.wire.clock import now_us

_INFO = struct.Struct("=4xB19xI28xI60xQ16xII")
"""Of struct tcp_info: backoff, unacked, last_ack_recv (ms), bytes_acked, notsent_bytes, min_rtt (us)."""
LATELY: Final = 4
"""A call that ran out of time was still arriving if it moved in the last one of so many parts of its time."""


class Left(NamedTuple):
    """What is left of a message: bytes that were not acknowledged, when the receiver last took something (0:
    it takes nothing), and the shortest way there and back, after which bytes that have come are acknowledged.
    """

    bytes: int
    moved_us: int
    rtt_us: int


class Sending:
    """One message on one connection, from before its first byte."""

    def __init__(self, connection: socket.socket, size: int) -> None:
        self._connection = connection
        asked = _ask(connection)
        self._whole = -1 if asked is None else asked[3] + size

    def left(self) -> Left | None:
        """What is left of it now."""
        asked = _ask(self._connection) if self._whole >= 0 else None
        if asked is None:
            return None
        backoff, unacked, silent_ms, acked, unsent, rtt_us = asked
        is_shut = unacked == 0 and unsent > 0 and backoff > 0
        moved_us = 0 if is_shut else now_us() - 1000 * silent_ms
        return Left(max(0, self._whole - acked), moved_us, rtt_us)

    def moved_lately(self, timeout_s: float) -> bool:
        """Whether something of it moved towards the end of a call that has lasted so long."""
        left = self.left()
        return left is not None and now_us() - left.moved_us < timeout_s * 1e6 / LATELY


class Sendings:
    """By batch, each to the first of its workers that is on another host. Thread-safe."""

    def __init__(self) -> None:
        self._by_batch: dict[int, Sending] = {}

    def begun(self, batch: int, sending: Sending) -> None:
        """A batch's message goes out, perhaps once more."""
        self._by_batch[batch] = sending

    def over(self, batch: int) -> None:
        """Its call has ended."""
        self._by_batch.pop(batch, None)

    def left(self, batch: int) -> Left | None:
        """What is left of a batch's message; None where no such message is under way, or nobody knows."""
        sending = self._by_batch.get(batch)
        return None if sending is None else sending.left()

    def moved_us(self, batch: int) -> int:
        """When the receiver last took something of it; 0: it takes nothing, or nobody knows."""
        left = self.left(batch)
        return 0 if left is None else left.moved_us


def _ask(connection: socket.socket) -> tuple[int, int, int, int, int, int] | None:
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        return _INFO.unpack(told)
    except (OSError, struct.error):
        return None
