"""Work that any thread brings and that is done by one thread at a time: the thread that adds an item drains
the queue, unless another thread is draining it, which then takes this item too.

So no thread is woken for an item: that costs more than most items do. Only alarms have a thread of their own.

Rules
- Items are taken in the order in which they came; none is left behind: who ends a turn looks again.
- `take` gets what has come, perhaps nothing, and returns when it wants to be called at the latest.
- An alarm that is moved to later is not told to its thread, which wakes up once for nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from python_backend.wire.clock import NEVER, now_us
from python_backend.wire.threads import Bell

_LONGEST_S: Final = 3600.0

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """See the module. Thread-safe."""

    def __init__(self, name: str, take: Callable[[Sequence[Item]], int]) -> None:
        """`take` must not raise; it returns a time in CLOCK_MONOTONIC us, or NEVER."""
        self._take = take
        self._items: deque[Item] = deque()
        self._turn = threading.Lock()
        self._holder = 0
        self._closed = False
        self._alarm_us = NEVER
        self._asleep_until_us = NEVER
        self._moved = Bell()
        self._watcher = threading.Thread(target=self._watch, name=name, daemon=True)

    def start(self) -> None:
        """Have alarms watched; before the first item."""
        self._watcher.start()

    def bring(self, item: Item) -> None:
        """Have an item done: now by this thread, or by the one whose turn it is."""
        self._items.append(item)
        self.take_turn()

    def leave(self, item: Item) -> None:
        """As bring, but by the next thread that has a turn: the caller will take one soon."""
        self._items.append(item)

    def take_turn(self) -> None:
        """Do what has come, unless another thread is at it."""
        while self._items and not self._closed and self._turn.acquire(blocking=False):
            try:
                self._do()
            finally:
                self._turn.release()

    @property
    def mine(self) -> bool:
        """Whether it is the calling thread's turn."""
        return self._holder == threading.get_ident()

    def close(self) -> None:
        """Do what has come, and nothing after that. Not to be called by whose turn it is."""
        with self._turn:
            self._do()
            self._closed = True
        self._moved.ring()
        self._watcher.join()

    def _do(self) -> None:
        """One turn, by whoever has the lock."""
        if self._closed:
            return
        items = []
        while self._items:  # taken by nobody else
            items.append(self._items.popleft())
        self._holder = threading.get_ident()
        self._alarm_us = self._take(items)
        self._holder = 0
        # The watching thread writes and reads these two in the other order, so one of us sees the other's.
        if self._alarm_us < self._asleep_until_us:
            self._asleep_until_us = 0
            self._moved.ring()

    def _watch(self) -> None:
        while not self._closed:
            self._asleep_until_us = until_us = self._alarm_us
            if self._alarm_us < until_us:
                continue
            wait_us = until_us - now_us()
            if wait_us > 0:
                self._moved.wait(min(wait_us / 1e6, _LONGEST_S))
                continue
            self._asleep_until_us = 0
            with self._turn:
                self._do()
            self.take_turn()
