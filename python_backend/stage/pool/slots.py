"""Memory that a stage worker and the pool's processes both see: a slot for each batch under way, made of a
memfd, which has no name that anybody could guess and goes with the last process that has it.

Rules
- Slots are used again, since making one costs what touching its pages costs; a process of the pool keeps the
  last ones mapped, and lets go of those that were not used for a while.
- A batch's pixels are computed on where they lie: their slot is free again when nobody has that array, or a
  view of it, any more. That is told in the middle of anything, so it takes no lock.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from collections import OrderedDict, deque

import numpy as np

from python_backend.wire.kserve import Array

_STEP = 1 << 20
_FREE = 8
"""Slots kept for later; more than that were needed in a bad moment."""
_MAPPED = 64


class Slot:
    """Shared memory of at least `size` bytes. Its maker closes it."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // _STEP) * _STEP
        self.descriptor = os.memfd_create("ppipe-prepare", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.descriptor, self.size)
            self._map = mmap.mmap(self.descriptor, self.size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.memory = memoryview(self._map)

    def close(self) -> None:
        """Let go. What somebody still looks into goes with the last of these views."""
        with contextlib.suppress(BufferError):
            self.memory.release()
            self._map.close()
        os.close(self.descriptor)


class Slots:
    """A stage worker's slots. Thread-safe."""

    def __init__(self) -> None:
        self._free: list[Slot] = []
        self._back: deque[Slot] = deque()
        """Given back, and not yet among the free ones."""
        self._closed = False
        self._lock = threading.Lock()

    def take(self, size: int) -> Slot:
        """One of at least `size` bytes, to be lent to an array or given back. Raises OSError."""
        with self._lock:
            self._sort_in()
            for index, slot in enumerate(self._free):
                if slot.size >= size:
                    return self._free.pop(index)
        return Slot(size)

    def lend(self, slot: Slot, shape: tuple[int, ...], at: int) -> Array:
        """A uint8 array in a slot, from the byte `at` on, with which the slot comes back."""
        array: Array = np.ndarray(shape, np.uint8, slot.memory, at)
        weakref.finalize(array, self.give_back, slot).atexit = False
        return array

    def give_back(self, slot: Slot) -> None:
        """For later."""
        self._back.append(slot)
        if self._closed:
            self._close_all()

    def close(self) -> None:
        """Let go of those that nobody has, and of others when they come back."""
        self._closed = True
        self._close_all()

    def _sort_in(self) -> None:
        while self._back:
            self._free.append(self._back.popleft())
        while len(self._free) > _FREE:
            self._free.pop(0).close()

    def _close_all(self) -> None:
        for slots in (self._free, self._back):
            with contextlib.suppress(IndexError):  # each is popped once, by whoever comes first
                while True:
                    slots.pop().close()


class Mapped:
    """What a process of the pool has mapped, the last used last. `idle_s`: kept at least so long."""

    def __init__(self, idle_s: float = 10.0) -> None:
        self._idle_s = idle_s
        self._maps: OrderedDict[tuple[int, ...], tuple[mmap.mmap, float]] = OrderedDict()

    def find(self, descriptor: int, now_s: float) -> mmap.mmap:
        """The memory of a slot; its descriptor may be closed then. Raises OSError, ValueError."""
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino, status.st_size)  # numbers come again after 4 billion files
        found = self._maps.pop(key, None)
        if found is None:
            self._let_go(now_s)
            found = mmap.mmap(descriptor, status.st_size), now_s
        self._maps[key] = found[0], now_s
        return found[0]

    def _let_go(self, now_s: float) -> None:
        while self._maps:
            memory, used_s = next(iter(self._maps.values()))
            if len(self._maps) < _MAPPED and now_s - used_s < self._idle_s:
                return
            self._maps.popitem(last=False)
            with contextlib.suppress(BufferError):
                memory.close()
