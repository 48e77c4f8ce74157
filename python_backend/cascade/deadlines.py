"""A thread that tells when frames' deadlines come, and looks after those that have been open for a while.

Asking whether a caller is still there is a round trip to the server process. So a frame is looked at when it
has been open for LOOK_US, again whenever it has been open for twice as long.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from python_backend.wire.clock import NEVER, now_us

LOOK_US = 50_000
_TICK_US: Final = 500_000
_TICK: Final = -1
"""In place of a serial number: time for what is done now and then."""
Item = TypeVar("Item")
Told = TypeVar("Told")


class Deadlines(Generic[Item]):
    """Thread-safe. All callables but `log` are called in the thread of this alone."""

    def __init__(
        self,
        due: Callable[[Item], None],
        look: Callable[[Item], None],
        log: Callable[[str], None],
        tick: Callable[[int], None] | None = None,
    ) -> None:
        """tick: called now and then, with the time, whether or not anything is open."""
        self._due = due
        self._look = look
        self._log = log
        self._tick = tick
        self._tick_us = NEVER if tick is None else 0
        """When it is called next."""
        self._open: dict[int, Item] = {}
        self._serial_of: dict[int, int] = {}
        """By id, of what is open."""
        self._heap: list[tuple[int, int, int]] = []
        """When, serial number, how long it was waited for. No item: one that has ended is not kept."""
        self._serial = itertools.count()
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add(self, due_us: int, item: Item) -> None:
        """Watch it until it is forgotten."""
        with self._wake:
            serial = next(self._serial)
            self._open[serial] = item
            self._serial_of[id(item)] = serial
            self._push(due_us, serial, 0)
            self._push(now_us() + LOOK_US, serial, LOOK_US)

    def forget(self, item: Item) -> None:
        """It has ended."""
        with self._wake:
            serial = self._serial_of.pop(id(item), None)
            if serial is not None:
                del self._open[serial]

    def close(self) -> list[Item]:
        """End the thread; what was still open."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        return list(self._open.values())

    def _push(self, at_us: int, serial: int, waited_us: int) -> None:
        """waited_us: 0 where it is the deadline."""
        heapq.heappush(self._heap, (at_us, serial, waited_us))
        if self._heap[0][1] == serial:
            self._wake.notify()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            serial, waited_us = found
            if serial == _TICK:
                assert self._tick is not None
                self._logged(self._tick, now_us())
            else:
                self._tell(serial, waited_us)

    def _tell(self, serial: int, waited_us: int) -> None:
        """Of its own, so that a thread that waits holds no item."""
        with self._wake:
            if serial not in self._open:
                return
            item = self._open[serial]
        self._logged(self._look if waited_us else self._due, item)
        if waited_us:
            with self._wake:
                if serial in self._open:
                    self._push(now_us() + waited_us, serial, 2 * waited_us)

    def _logged(self, call: Callable[[Told], None], told: Told) -> None:
        try:
            call(told)
        except Exception as error:
            self._log(f"a frame could not be ended: {type(error).__name__}: {error}")

    def _next(self) -> tuple[int, int] | None:
        """The next due and still open: its serial number, and how long it was waited for; or _TICK."""
        with self._wake:
            while not self._closing:
                while self._heap and self._heap[0][1] not in self._open:
                    heapq.heappop(self._heap)
                time_us, due_us = now_us(), self._heap[0][0] if self._heap else NEVER
                if due_us <= time_us:
                    _, serial, waited_us = heapq.heappop(self._heap)
                    return serial, waited_us
                if self._tick_us <= time_us:
                    self._tick_us = time_us + _TICK_US
                    return _TICK, 0
                next_us = min(due_us, self._tick_us)
                self._wake.wait(None if next_us == NEVER else (next_us - time_us) / 1e6)
            return None
