"""Completion notices: small UDP datagrams from stages to their dispatcher, off the answer's path.

A notice lost is no harm: the batch's answer, or its failure, tells the same later. A notice is signed like
a ticket, because a forged one would bend the timelines. `ended_us` is on the dispatcher's clock
(wire.clocks); where the sender does not know that, it is set on arrival. The same port answers questions for
the time.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from python_backend.scheduler.declare import record
from python_backend.scheduler.record import Record
from python_backend.wire.clocks import ONE_CLOCK, QUESTION, Offset, answer_to
from python_backend.wire.signing.keys import Keys
from python_backend.wire.signing.signatures import body_in, packed_datagram
from python_backend.wire.sockets import resolved

_BODY = struct.Struct("!4sqqqHBqq")
_MAGIC: Final = b"PPN1"
_NO_TIME: Final = -1
_CONNECTED_S: Final = 5.0
_LONGEST: Final = 1400
"""Bytes of any datagram of ours: one Ethernet frame."""


@record
class Notice(Record):
    """Stage `stage` of a batch ended its compute at `ended_us`, after `busy_us` on its worker; or it
    failed. revision: of the batch's ticket. ended_us: None where the sender does not know the dispatcher's
    clock.
    """

    revision: int
    batch: int
    attempt: int
    stage: int
    ok: bool
    ended_us: int | None
    busy_us: int


class NoticeSender:
    """Sends notices to one dispatcher; never blocks, never raises.

    The socket is connected, so that the host's name is not looked up for each notice; it is looked up again
    after a failure and every now and then.
    """

    def __init__(
        self,
        address: tuple[str, int],
        keys: Keys,
        offset: Callable[[], Offset | None] = lambda: ONE_CLOCK,
    ) -> None:
        """offset: of the dispatcher's clock, as it is known now."""
        self._socket = _socket_of(socket.AF_INET)
        self._address = address
        self._connected_until_s = 0.0
        self._keys = keys
        self._offset = offset

    def send(self, notice: Notice) -> None:
        """Send, or lose it."""
        self.send_datagram(encode(notice, self._keys, self._offset()))

    def send_datagram(self, datagram: bytes) -> None:
        """Send something to the same dispatcher, or lose it."""
        try:
            if time.monotonic() > self._connected_until_s:
                self._connect()
            self._socket.send(datagram)
        except ConnectionRefusedError:
            # Told of an earlier notice, instead of sending this one: the dispatcher may be back.
            with contextlib.suppress(OSError):
                self._socket.send(datagram)
        except OSError:
            self._connected_until_s = 0.0

    def _connect(self) -> None:
        family, address = resolved(*self._address, socket.SOCK_DGRAM)
        if family != self._socket.family:
            self._socket.close()
            self._socket = _socket_of(family)
        self._socket.connect(address)
        self._connected_until_s = time.monotonic() + _CONNECTED_S

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def _socket_of(family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


class NoticeReceiver:
    """The dispatcher's end: `receive` blocks until a notice of ours comes, None after close()."""

    def __init__(
        self,
        address: tuple[str, int],
        keys: Keys,
        other: Callable[[bytes], None] = lambda datagram: None,
    ) -> None:
        """`other`: gets datagrams that are no notices. Raises OSError."""
        self._other = other
        family, found = resolved(*address, socket.SOCK_DGRAM)
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._keys = keys
        self._closing = False
        try:
            self._socket.bind(found)
        except OSError as error:
            self._socket.close()
            host, port = address
            raise OSError(
                error.errno, f"feedback_port {port} on {host} cannot be bound: {error.strerror}"
            ) from error

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self._socket.getsockname()[1])

    def receive(self) -> Notice | None:
        """The next genuine notice; None when closed."""
        while not self._closing:
            try:
                datagram, sender = self._socket.recvfrom(_LONGEST)
            except OSError:
                return None
            notice = decode(datagram, self._keys)
            if notice is not None:
                return notice
            if datagram.startswith(QUESTION):
                self._say_the_time(datagram, sender)
            else:
                self._other(datagram)
        return None

    def _say_the_time(self, datagram: bytes, sender: Any) -> None:
        answer = answer_to(datagram, self._keys)
        if answer is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(answer, socket.MSG_DONTWAIT, sender)

    def run(self, handle: Callable[[Notice], None]) -> None:
        """Give every notice to `handle` until closed."""
        while (notice := self.receive()) is not None:
            handle(notice)

    def close(self) -> None:
        """Wake the receiving thread and end it."""
        self._closing = True
        # Closing a socket does not wake a thread blocked in recv; shutting it down does, on Linux.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def encode(notice: Notice, keys: Keys, offset: Offset | None = ONE_CLOCK) -> bytes:
    """The datagram of a notice. offset: of the dispatcher's clock to the one that the notice's time is on."""
    ended_us = _NO_TIME
    if offset is not None and notice.ended_us is not None:
        ended_us = notice.ended_us + offset.ahead_us
    body = _BODY.pack(
        *(
            _MAGIC,
            notice.revision,
            notice.batch,
            notice.attempt,
            notice.stage,
            notice.ok,
            ended_us,
            notice.busy_us,
        )
    )
    return packed_datagram(body, keys)


def decode(datagram: bytes, keys: Keys) -> Notice | None:
    """The notice in a datagram; None for anything that is not a genuine one."""
    body = body_in(datagram, _MAGIC, _BODY.size, keys)
    if body is None:
        return None
    _, revision, batch, attempt, stage, ok, ended_us, busy_us = _BODY.unpack(body)
    return Notice(
        revision=revision,
        batch=batch,
        attempt=attempt,
        stage=stage,
        ok=bool(ok),
        ended_us=None if ended_us == _NO_TIME else ended_us,
        busy_us=busy_us,
    )
