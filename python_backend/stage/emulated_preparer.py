"""Preparing that is only waited for: as long as the profile says that it takes on the server's cores.

Rules
- All first-stage workers of a server share its cores, whose times lie in a file of the server's in /dev/shm;
  whoever has it locked takes the cores that are free first. The server's supervisor sweeps the file with the
  others.
- What a server left that was killed with its supervisor, the next one removes.
- Nothing is looked at: every frame is taken to be good.
"""

from __future__ import annotations

import fcntl
import heapq
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planner.frames import FrameCost
from python_backend.stage.preparing import Done, Prepared
from python_backend.wire.clock import now_us, sleep_until
from python_backend.wire.kserve import Buffer
from python_backend.wire.ragged import FrameInfo
from python_backend.wire.shm.file import SHM, is_at, let_go, lock, open_own, prefix, remove_left

_ENDING = "cores"


class SharedCores:
    """When each core of a server is free, for all of its processes; the last one removes the file."""

    def __init__(self, cores: int) -> None:
        self._path = SHM / f"{prefix()}{_ENDING}"
        remove_left(_ENDING)
        self._descriptor = _opened(self._path)
        os.ftruncate(self._descriptor, 8 * cores)
        self._map = mmap.mmap(self._descriptor, 8 * cores)
        self._free_us = np.frombuffer(self._map, np.int64)

    def take(self, from_us: int, each_us: Sequence[int]) -> int:
        """Have work of these lengths done, each by the core that is free first; when all of it is."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            ready_us = from_us
            for length_us in each_us:
                core = int(self._free_us.argmin())
                self._free_us[core] = max(int(self._free_us[core]), from_us) + length_us
                ready_us = max(ready_us, int(self._free_us[core]))
            return ready_us
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        self._free_us = np.empty(0, np.int64)
        self._map.close()
        let_go(self._path, self._descriptor, None)


def _opened(path: Path) -> int:
    """The file, held as long as it is open; never one that its last holder has just removed."""
    while True:
        descriptor = open_own(path)
        if lock(descriptor, fcntl.F_RDLCK, None) and is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


class EmulatedPreparer:
    """See the module. What it gives has no pixels, so a TaggingPreparer belongs around it."""

    def __init__(self, cost: FrameCost, cores: int) -> None:
        self._cost = cost
        self._cores = SharedCores(cores)
        self._due: list[tuple[int, int, Done]] = []
        self._number = 0
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)
        self._thread.start()

    def begin(
        self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], done: Done, until_us: int | None = None
    ) -> None:
        """See Preparer."""
        each_us = [round(self._cost.us(info.width * info.height, info.size)) for info in infos]
        ready_us = self._cores.take(now_us(), each_us)
        with self._wake:
            self._number += 1
            heapq.heappush(self._due, (ready_us, self._number, done))
            self._wake.notify()

    def close(self) -> None:
        """See Preparer."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._cores.close()

    def _run(self) -> None:
        while (done := self._next()) is not None:
            done(Prepared([], {}))

    def _next(self) -> Done | None:
        with self._wake:
            while not self._closing:
                if not self._due:
                    self._wake.wait()
                    continue
                wait_us = self._due[0][0] - now_us()
                if wait_us <= _PRECISE_US:
                    due_us, _, done = heapq.heappop(self._due)
                    break
                self._wake.wait((wait_us - _PRECISE_US) / 1e6)
            else:
                return None
        sleep_until(due_us)
        return done


_PRECISE_US = 500
"""The last part of a wait, which is slept through: a condition's time-outs are late by more."""
