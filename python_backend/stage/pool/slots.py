"""Memory that a stage worker and the pool's processes both see: a slot for each batch under way, made of a
memfd, which has no name that anybody could guess and goes with the last process that has it.

Rules: slots are used again, since making one costs what touching its pages costs; a process of the pool keeps
the last ones mapped, and lets go of those that were not used for a while.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections import OrderedDict

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
        """Let go. Nothing may look into it any more."""
        self.memory.release()
        self._map.close()
        os.close(self.descriptor)


class Slots:
    """A stage worker's slots. Thread-safe."""

    def __init__(self) -> None:
        self._free: list[Slot] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> Slot:
        """One of at least `size` bytes. Raises OSError."""
        with self._lock:
            for index, slot in enumerate(self._free):
                if slot.size >= size:
                    return self._free.pop(index)
        return Slot(size)

    def give_back(self, slot: Slot) -> None:
        """For later."""
        with self._lock:
            self._free.append(slot)
            oldest = self._free.pop(0) if len(self._free) > _FREE else None
        if oldest is not None:
            oldest.close()

    def close(self) -> None:
        """Let go of those that nobody has."""
        with self._lock:
            free, self._free = self._free, []
        for slot in free:
            slot.close()


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
