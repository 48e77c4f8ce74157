"""How far an entry server's clock is ahead of this host's: stages ask in small datagrams to the port that
takes their notices.

Rules
- Hosts do not share CLOCK_MONOTONIC. The common clock of a batch is that of the entry server that has sent
  it: what two hosts tell each other of a batch's times is on that clock, and each sets it on its own.
- An offset is the middle of the quickest of the last questions' round trips; it is wrong by half of that trip
  at most. Question and answer are signed, and an answer has its question's number.
- A time that a deadline is counted from is taken as late as it can be, so an offset makes nobody refuse what
  is in time. Where no offset is known, time is counted from receipt, and a transfer is time gained.
- A clock that was set anew, because its host has started again, contradicts what was heard before, which is
  forgotten.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from python_backend.wire.clock import now_us
from python_backend.wire.servers import Servers
from python_backend.wire.signing.keys import Keys
from python_backend.wire.signing.signatures import body_in, packed_datagram
from python_backend.wire.sockets import resolved

QUESTION: Final = b"PPCQ"
_ANSWER: Final = b"PPCA"
_BODY = struct.Struct("!4sQqq")
_KEPT: Final = 16
"""Questions, one a second: two clocks part by less than 0.2 ms in that time."""
_DRIFT_US: Final = 1_000
_AT_START: Final = 8
_SOON_S: Final = 0.02
_PERIOD_S: Final = 1.0
_PATIENCE_S: Final = 0.25
LONGEST_FLIGHT_US: Final = 10_000_000
"""A time of sending that is longer ago than that, or is yet to come, is of a clock that was set anew."""

Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Offset:
    """ahead_us: what is to be added to this host's time for the entry's, give or take error_us."""

    ahead_us: int
    error_us: int


ONE_CLOCK: Final = Offset(0, 0)


class EntryClocks(Protocol):
    """What a host knows of the entry servers' clocks."""

    def offset(self, entry: str) -> Offset | None:
        """Of an entry server's clock; None where it is not known."""


class SameClock:
    """Of the entry server itself, and of processes on its host."""

    def offset(self, entry: str) -> Offset | None:
        """See EntryClocks."""
        return ONE_CLOCK


class NoClock:
    """Of a host that has not asked yet."""

    def offset(self, entry: str) -> Offset | None:
        """See EntryClocks."""
        return None


SAME_CLOCK: Final = SameClock()
NO_CLOCKS: Final = NoClock()


def sent_on_entry_us(clocks: EntryClocks, entry: str, sent_us: int) -> int | None:
    """The latest that a time of this host's can be on the entry's clock; None where that is not known."""
    offset = clocks.offset(entry)
    return None if offset is None else sent_us + offset.ahead_us + offset.error_us


def origin_us(offset: Offset | None, sent_on_entry: int | None, received_us: int) -> int:
    """When a message was sent, on this host's clock: as late as it can have been, and when it was received
    where that is not known.
    """
    if offset is None or sent_on_entry is None:
        return received_us
    sent_us = sent_on_entry - offset.ahead_us + offset.error_us
    return sent_us if received_us - LONGEST_FLIGHT_US <= sent_us < received_us else received_us


class Estimate:
    """Of one clock. Written by one thread, read by others."""

    def __init__(self) -> None:
        self._trips: deque[Offset] = deque(maxlen=_KEPT)
        self.best: Offset | None = None

    def heard(self, asked_us: int, entry_us: int, heard_us: int) -> None:
        """The entry's clock was at entry_us some time between asked_us and heard_us here."""
        error_us = (heard_us - asked_us + 1) // 2
        trip = Offset(entry_us - (asked_us + heard_us) // 2, error_us)
        if self.best is not None and self._contradicts(trip, self.best):
            self._trips.clear()
        self._trips.append(trip)
        self.best = min(self._trips, key=lambda each: each.error_us)

    @staticmethod
    def _contradicts(one: Offset, other: Offset) -> bool:
        return abs(one.ahead_us - other.ahead_us) > one.error_us + other.error_us + _DRIFT_US


def question(number: int, asked_us: int, keys: Keys) -> bytes:
    """What time is it there?"""
    return packed_datagram(_BODY.pack(QUESTION, number, asked_us, 0), keys)


def answer_to(datagram: bytes, keys: Keys, clock: Clock = now_us) -> bytes | None:
    """The answer to a genuine question; None for anything else."""
    asked = _genuine(QUESTION, datagram, keys)
    if asked is None:
        return None
    return packed_datagram(_BODY.pack(_ANSWER, asked[1], asked[2], clock()), keys)


def time_in(datagram: bytes, number: int, keys: Keys) -> tuple[int, int] | None:
    """When the question of that number was asked, and the time there; None for anything else."""
    told = _genuine(_ANSWER, datagram, keys)
    return (told[2], told[3]) if told is not None and told[1] == number else None


def _genuine(magic: bytes, datagram: bytes, keys: Keys) -> tuple[bytes, int, int, int] | None:
    body = body_in(datagram, magic, _BODY.size, keys)
    if body is None:
        return None
    found: tuple[bytes, int, int, int] = _BODY.unpack(body)
    return found


class AskedClocks:
    """The clocks of a model's entry servers, asked by a thread of its own until closed. There is none where
    all of them are on this host.
    """

    def __init__(
        self, servers: Servers, model: str, own_host: str, keys: Keys, clock: Clock = now_us
    ) -> None:
        self._servers = servers
        self._model = model
        self._own_host = own_host
        self._keys = keys
        self._clock = clock
        self._estimates: dict[str, Estimate] = {}
        self._near: frozenset[str] = frozenset()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clocks", daemon=True)
        if self._far():
            self._thread.start()

    def offset(self, entry: str) -> Offset | None:
        """See EntryClocks."""
        if entry in self._near:
            return ONE_CLOCK
        estimate = self._estimates.get(entry)
        return None if estimate is None else estimate.best

    def close(self) -> None:
        """Ask no more."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _far(self) -> Mapping[str, tuple[str, int]]:
        """Where the model's dispatchers on other hosts are, by entry server."""
        table = self._servers.table
        found, near = {}, set()
        for entry in table.entries:
            name = entry.server.name
            with contextlib.suppress(KeyError):  # an entry server without this model
                address = table.feedback(name, self._model)
                if address[0] == self._own_host:
                    near.add(name)
                else:
                    found[name] = address
        self._near = frozenset(near)
        return found

    def _run(self) -> None:
        for number in range(1 << 62):
            for entry, address in self._far().items():
                with contextlib.suppress(OSError):
                    self._ask(entry, address)
            if self._closing.wait(_SOON_S if number < _AT_START else _PERIOD_S):
                return

    def _ask(self, entry: str, address: tuple[str, int]) -> None:
        """Ask once. Each question has a socket of its own, so an answer that comes late is nobody's. Raises
        OSError.
        """
        family, found = resolved(*address, socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as asker:
            asker.settimeout(_PATIENCE_S)
            asker.connect(found)
            number = secrets.randbits(64)
            asker.send(question(number, self._clock(), self._keys))
            told = time_in(asker.recv(512), number, self._keys)
            if told is not None:
                self._estimates.setdefault(entry, Estimate()).heard(*told, self._clock())
