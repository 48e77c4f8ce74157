"""A sender's shared memory: one file in /dev/shm, cut into equal slots that batches travel in.

Rules
- One arena per sending process, whatever the number of receivers; a receiver's server registers it once.
- A slot has one batch at a time. It is free again when its reader has answered. If the sender gave up
  waiting, the reader may still come (a stopped server that goes on), so the slot is in quarantine until a
  later request to the same reader was answered, or the reader is dead: one reader reads its requests in
  order.
- The file is made for its owner alone and removed by close(); its name starts with the server's prefix, so
  that a supervisor can sweep up after a killed one.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from python_backend.runtime.clock import now_us
from python_backend.runtime.kserve import Buffer

SHM = Path("/dev/shm")
PREFIX_VARIABLE = "PPIPE_SHM_PREFIX"
_PAGE = 4096


class ArenaError(RuntimeError):
    """Shared memory that cannot be had: the message says how much is wanted and how much there is."""


@dataclass(frozen=True)
class Slot:
    """Bytes [offset, offset + size) of the arena. `generation` counts its uses."""

    index: int
    offset: int
    size: int
    generation: int


class Arena:
    """`slots` slots of `slot_bytes` each. Thread-safe. Raises ArenaError when /dev/shm has no room for it."""

    def __init__(self, name: str, slot_bytes: int, slots: int) -> None:
        self.slot_bytes = -(-slot_bytes // _PAGE) * _PAGE
        self.size = self.slot_bytes * slots
        self.key = f"/{os.environ.get(PREFIX_VARIABLE, f'ppipe_{os.getpid()}_')}{name}_{secrets.token_hex(4)}"
        require_room(self.size)
        self._path = SHM / self.key[1:]
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, self.size)
            self._map = mmap.mmap(descriptor, self.size)
        finally:
            os.close(descriptor)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._lock = threading.Lock()
        self._free = list(range(slots))
        self._generations = [0] * slots
        self._quarantined: dict[str, list[tuple[int, Slot]]] = {}

    def take(self, size: int) -> Slot | None:
        """A free slot for `size` bytes; None when there is none."""
        if size > self.slot_bytes:
            return None
        with self._lock:
            if not self._free:
                return None
            index = self._free.pop()
            self._generations[index] += 1
            return Slot(index, index * self.slot_bytes, size, self._generations[index])

    def write(self, slot: Slot, tensors: Sequence[Sequence[Buffer]]) -> None:
        """Put the pieces one after the other."""
        position = slot.offset
        for pieces in tensors:
            for piece in pieces:
                end = position + len(piece)
                # numpy copies without the interpreter's lock; slice assignment of an mmap would hold it.
                np.copyto(self._bytes[position:end], np.frombuffer(piece, np.uint8))
                position = end

    def give_back(self, slot: Slot) -> None:
        """Its reader has answered."""
        with self._lock:
            self._free.append(slot.index)

    def quarantine(self, slot: Slot, reader: str) -> None:
        """Nobody waits for this reader's answer any more, but it may still read."""
        with self._lock:
            self._quarantined.setdefault(reader, []).append((now_us(), slot))

    def answered(self, reader: str, sent_us: int) -> None:
        """`reader` has answered a request sent at `sent_us`: it has read all that was sent to it before."""
        if reader in self._quarantined:
            self._release(reader, sent_us)

    def dead(self, reader: str) -> None:
        """`reader` is gone and reads no more."""
        if reader in self._quarantined:
            self._release(reader, now_us() + 1)

    @property
    def quarantined(self) -> int:
        """Slots that wait for a sign of their reader."""
        return sum(len(slots) for slots in self._quarantined.values())

    @property
    def free(self) -> int:
        """Slots that can be taken."""
        return len(self._free)

    def close(self) -> None:
        """Remove the file; a receiver that has it mapped keeps its pages until it unregisters."""
        self._path.unlink(missing_ok=True)
        self._bytes = np.empty(0, np.uint8)
        with contextlib.suppress(BufferError):  # a write under way keeps its view; the pages go with it
            self._map.close()

    def _release(self, reader: str, before_us: int) -> None:
        with self._lock:
            slots = self._quarantined.pop(reader, [])
            kept = [(since_us, slot) for since_us, slot in slots if since_us >= before_us]
            if kept:
                self._quarantined[reader] = kept
            self._free.extend(slot.index for since_us, slot in slots if since_us < before_us)


def require_room(size: int) -> None:
    """Raises ArenaError unless /dev/shm can take `size` bytes more."""
    try:
        status = os.statvfs(SHM)
    except OSError as error:
        raise ArenaError(f"{SHM}: {error.strerror}") from error
    room = status.f_bavail * status.f_frsize
    if size > room:
        raise ArenaError(
            f"{SHM} has {room >> 20} MiB left and {-(-size >> 20)} MiB are needed for hops; "
            "make it larger (in a container: a memory volume or --shm-size)"
        )
