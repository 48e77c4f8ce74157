"""What the dispatchers of one entry server take of its uplink, told through a page of shared memory for each.

Rules
- A page has one writer, which holds its lock (wire.shm.file); everybody reads all of them.
- A page is a count of all that was ever written in it, then a ring of (start, until) in microseconds of the
  host's clock. A pair is written before the count says so. Who falls behind by a whole ring loses what is
  oldest: that has passed.
- The file's name has a digest of the writers' names, which say whose page is where: dispatchers of another
  set of models have a file of their own.
- Who decides holds the file's turn from its look at the others' pages until it has told what it takes: all
  of them wake up when the link becomes free. A turn is waited for PATIENCE_US at most, and then done
  without, since its holder may be stopped: two that do not see each other lose one transfer's wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import time
from collections.abc import Sequence

from python_backend.wire.clock import now_us
from python_backend.wire.shm.file import PAGE, SHM, Share, SharedFile, lock

SLOTS = PAGE // 16 - 1
_WORDS = PAGE // 8
PATIENCE_US = 2_000
_LOOK_AGAIN_S = 50e-6


class LinkLedger:
    """`names`: of all who write, in an order that all know; `me`: one of them. Raises ArenaError, OSError."""

    def __init__(self, names: Sequence[str], me: str, patience_s: float = 2.0) -> None:
        mine = names.index(me)
        self._others = [index for index in range(len(names)) if index != mine]
        size = len(names) * PAGE
        self._file = SharedFile(file_name(names), size, Share(mine * PAGE, PAGE), patience_s)
        self._page = self._file.bytes.view("<u8")
        self._turn = Share(size, 1)
        self._descriptor = os.open(SHM / self._file.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._map = mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ)
        self._all = memoryview(self._map).cast("Q")
        self._read = [self._all[index * _WORDS] for index in range(len(names))]

    def take_turn(self) -> bool:
        """Wait for the turn, not for long; whether it was had."""
        end_us = now_us() + PATIENCE_US
        while not lock(self._descriptor, fcntl.F_WRLCK, self._turn):
            if now_us() > end_us:
                return False
            time.sleep(_LOOK_AGAIN_S)
        return True

    def give_turn(self) -> None:
        """Let others decide."""
        lock(self._descriptor, fcntl.F_UNLCK, self._turn)

    def tell(self, start_us: int, until_us: int) -> None:
        """I send from start_us until until_us."""
        count = int(self._page[0])
        slot = 2 + count % SLOTS * 2
        self._page[slot] = max(0, start_us)
        self._page[slot + 1] = max(0, until_us)
        self._page[0] = count + 1

    def news(self) -> list[tuple[int, int]]:
        """What others have told since the last look; of each in its order."""
        found = []
        for index in self._others:
            count = self._all[index * _WORDS]
            read = self._read[index]
            if count == read:
                continue
            self._read[index] = count
            # A smaller count: its page was made anew.
            for number in range(max(read if read < count else 0, count - SLOTS), count):
                slot = index * _WORDS + 2 + number % SLOTS * 2
                found.append((self._all[slot], self._all[slot + 1]))
        return found

    def close(self) -> None:
        """Write no more."""
        self._page = self._page[:0]
        self._all.release()
        self._map.close()
        os.close(self._descriptor)
        self._file.close()


def file_name(names: Sequence[str]) -> str:
    """Of the file, behind the server's prefix."""
    return f"link_{hashlib.sha256(' '.join(names).encode()).hexdigest()[:12]}"
