"""Connections to servers that stay open between calls."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from python_backend.wire.clock import now_us

IDLE_S: Final = 5.0
"""A connection that nothing was sent on for so long is closed."""
Address = tuple[str, int]
"""Host and port."""


class Closable(Protocol):
    """A socket, or what has one of its own."""

    def close(self) -> None:
        """Close it."""

    def shutdown(self, how: int, /) -> None:
        """Wake up who waits in it. Raises OSError."""


Connection = TypeVar("Connection", bound=Closable)


class NoEndpoint(Exception):
    """Nobody listens: the server is gone, or has no such endpoint."""


class Connections(Generic[Connection]):
    """Open connections: those of calls, and idle ones by address, the one used last on top. Thread-safe. A
    thread closes what has been idle for long; it lives while there is any.
    """

    def __init__(self, idle_s: float, make: Callable[[socket.socket, Address], Connection]) -> None:
        """make: a connection of a new socket. May raise OSError."""
        self._make = make
        self._idle_us = round(idle_s * 1e6)
        self._kept: dict[Address, deque[tuple[int, Connection]]] = {}
        self._used: set[Connection] = set()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._closer: threading.Thread | None = None

    def take(self, address: Address) -> Connection | None:
        """An idle one to use; None when there is none. Whoever takes one gives it back or drops it."""
        try:
            connection = self._kept[address].pop()[1]
        except (IndexError, KeyError):
            return None
        return self._in_use(connection)

    def open(self, address: Address, timeout_s: float) -> Connection:
        """A new one to use. Raises NoEndpoint, OSError; ConnectionAbortedError after close()."""
        if self._closing.is_set():
            raise ConnectionAbortedError("the transport is closed")
        try:
            opened = socket.create_connection(address, timeout=timeout_s)
        except ConnectionRefusedError as error:
            raise NoEndpoint from error
        try:
            opened.settimeout(None)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._make(opened, address)
        except BaseException:
            opened.close()
            raise
        if self._in_use(connection) is None:
            raise ConnectionAbortedError("the transport is closed")
        return connection

    def drop(self, connection: Connection) -> None:
        """Its call is over and left it useless."""
        self._used.discard(connection)
        connection.close()

    def give(self, address: Address, connection: Connection) -> None:
        """Its call is over; another may use it."""
        self._used.discard(connection)
        kept = self._kept.get(address)
        if kept is None:
            kept = self._kept.setdefault(address, deque())
        kept.append((now_us(), connection))
        if self._closing.is_set():
            self._close_all()
        elif self._closer is None:
            self._start_closer()

    def close(self) -> None:
        """Close all that are idle, also those that are given back later, and end the calls of the others."""
        self._closing.set()
        with self._lock:
            closer = self._closer
        if closer is not None:
            closer.join()
        for connection in list(self._used):
            with contextlib.suppress(OSError):  # of a call that has just ended
                connection.shutdown(socket.SHUT_RDWR)  # wakes up who waits in it, as closing it would not
        self._close_all()

    def _in_use(self, connection: Connection) -> Connection | None:
        """None, and it is closed, after close(): that first says so and then looks for what is in use."""
        self._used.add(connection)
        if self._closing.is_set():
            self.drop(connection)
            return None
        return connection

    def _close_all(self) -> None:
        for kept in list(self._kept.values()):
            with contextlib.suppress(IndexError):
                while True:
                    kept.pop()[1].close()

    def _start_closer(self) -> None:
        with self._lock:
            if self._closer is None and not self._closing.is_set():
                self._closer = threading.Thread(target=self._close_old, name="idle connections", daemon=True)
                self._closer.start()

    def _close_old(self) -> None:
        while not self._closing.wait(self._idle_us / 2e6):
            for kept in list(self._kept.values()):
                self._close_old_of(kept)
            if not self._any_kept() and self._may_leave():
                return

    def _may_leave(self) -> bool:
        """Whoever gives a connection back adds it first and looks for the thread then; this is the other way
        round, so that one of both sees the other.
        """
        with self._lock:
            self._closer = None
            if self._any_kept():
                self._closer = threading.current_thread()
            return self._closer is None

    def _any_kept(self) -> bool:
        return any(list(self._kept.values()))

    def _close_old_of(self, kept: deque[tuple[int, Connection]]) -> None:
        before_us = now_us() - self._idle_us
        with contextlib.suppress(IndexError):
            while kept[0][0] < before_us:
                since_us, connection = kept.popleft()
                if since_us >= before_us:  # the old one was taken at this moment
                    kept.appendleft((since_us, connection))
                    return
                connection.close()
