"""A sender's slots: its range of its server's file, cut into equal parts that batches travel in.

Rules
- A slot has one batch at a time. It is free again when its reader has answered. If the sender gave up
  waiting, the reader may still come (a stopped server that goes on), so the slot is in quarantine until a
  later request to the same reader was answered, the reader is dead, or a long time has passed: a reader that
  is asked nothing more gives no sign.
- A slot begins with its generation: a reader that comes too late sees that the slot has moved on, and leaves
  it alone. What it would have made of it is thrown away in any case, since its sender waits no more.
- Tensors lie one after the other, each at a multiple of ALIGNMENT.
"""

from __future__ import annotations

import secrets
import struct
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np

from python_backend.wire.clock import now_us
from python_backend.wire.kserve import Buffer
from python_backend.wire.shm_file import PAGE, Share, SharedFile

ALIGNMENT = 64
QUARANTINE_US = 10_000_000
HEADER = struct.Struct("@q")
"""The generation, in the first of a slot's ALIGNMENT bytes; tensors follow behind these."""


class Slot:
    """Bytes from `offset` of the file on. `generation` differs between any two uses."""

    def __init__(self, index: int, offset: int, generation: int) -> None:
        self.index: Final = index
        self.offset: Final = offset
        self.generation: Final = generation


class Arena:
    """The slots of one share of a file. Thread-safe."""

    def __init__(self, file: SharedFile, share: Share) -> None:
        self.file = file
        self._share = share
        self._lock = threading.Lock()
        self._free = list(range(share.slots))
        self._generations = [secrets.randbits(60)] * share.slots
        self._quarantined: dict[str, list[tuple[int, Slot]]] = {}

    def take(self, size: int) -> Slot | None:
        """A free slot for tensors of `size` bytes as `padded_size` counts them; None when there is none."""
        if size > self._share.slot_bytes:
            return None
        if self._quarantined:
            self.end_old_quarantines(now_us())
        with self._lock:
            if not self._free:
                return None
            index = self._free.pop()
            self._generations[index] += 1
            return Slot(index, self._share.offset + index * self._share.slot_bytes, self._generations[index])

    def write(self, slot: Slot, tensors: Sequence[Sequence[Buffer]]) -> None:
        """Put the generation, then the pieces of each tensor one after the other."""
        memory = self.file.bytes
        position = slot.offset - self._share.offset
        HEADER.pack_into(memory.data, position, slot.generation)
        position += ALIGNMENT
        for pieces in tensors:
            for piece in pieces:
                end = position + len(piece)
                # numpy copies without the interpreter's lock; slice assignment of an mmap would hold it.
                np.copyto(memory[position:end], np.frombuffer(piece, np.uint8))
                position = end
            position = aligned(position)

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

    def end_old_quarantines(self, time_us: int) -> None:
        """Free the slots whose readers have been silent for too long."""
        for reader in list(self._quarantined):
            self._release(reader, time_us - QUARANTINE_US)

    @property
    def quarantined(self) -> int:
        """Slots that wait for a sign of their reader."""
        return sum(len(slots) for slots in self._quarantined.values())

    @property
    def taken(self) -> int:
        """Slots with a batch on its way."""
        with self._lock:
            return self._share.slots - len(self._free) - self.quarantined

    @property
    def free(self) -> int:
        """Slots that can be taken."""
        return len(self._free)

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def _release(self, reader: str, before_us: int) -> None:
        with self._lock:
            slots = self._quarantined.pop(reader, [])
            kept = [(since_us, slot) for since_us, slot in slots if since_us >= before_us]
            if kept:
                self._quarantined[reader] = kept
            self._free.extend(slot.index for since_us, slot in slots if since_us < before_us)


def aligned(position: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-position // ALIGNMENT) * ALIGNMENT


def padded_size(sizes: Sequence[int]) -> int:
    """Bytes of a slot that tensors of these sizes take."""
    return ALIGNMENT + sum(aligned(size) for size in sizes)


def share_of(offset: int, sizes: Sequence[int], slots: int) -> Share:
    """A share from `offset` on with slots for tensors of these sizes."""
    return Share(offset=offset, slot_bytes=-(-padded_size(sizes) // PAGE) * PAGE, slots=slots)
