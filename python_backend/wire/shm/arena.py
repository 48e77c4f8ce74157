"""A sender's arena: its range of its server's file, in which every batch has a place of its own size.

Rules
- A place has one batch at a time. It is free again when its reader has answered. If the sender gave up
  waiting, the reader may still come (a stopped server that goes on), so the place is in quarantine until a
  later request to the same reader was answered, the reader is dead, or a long time has passed: a reader that
  is asked nothing more gives no sign.
- A place begins with its generation: a reader that comes too late sees that the place has moved on, and
  leaves it alone. What it would have made of it is thrown away in any case, since its sender waits no more.
- Tensors, or the frames of a ragged batch, lie one after the other, each at a multiple of ALIGNMENT.
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
from python_backend.wire.shm.file import PAGE, Share, SharedFile
from python_backend.wire.shm.space import ALIGNMENT, Space, aligned

QUARANTINE_US: Final = 10_000_000
HEADER = struct.Struct("@q")
"""The generation, in the first of a place's ALIGNMENT bytes; tensors follow behind these."""


class Span:
    """`size` bytes from `offset` of the file on. `generation` differs between any two uses."""

    def __init__(self, offset: int, size: int, generation: int) -> None:
        self.offset: Final = offset
        self.size: Final = size
        self.generation: Final = generation


class Arena:
    """The places of one share of a file. Thread-safe."""

    def __init__(self, file: SharedFile, share: Share) -> None:
        self.file = file
        self._share = share
        self._lock = threading.Lock()
        self._space = Space(share.size)
        self._generation = secrets.randbits(60)
        self._quarantined: dict[str, list[tuple[int, Span]]] = {}

    def take(self, size: int) -> Span | None:
        """A free place for tensors of `size` bytes as `padded_size` counts them; None when there is none."""
        size = max(ALIGNMENT, aligned(size))
        if size > self._share.size:
            return None
        if self._quarantined:
            self.end_old_quarantines(now_us())
        with self._lock:
            offset = self._space.take(size)
            if offset < 0:
                return None
            self._generation += 1
            return Span(self._share.offset + offset, size, self._generation)

    def write(self, place: Span, tensors: Sequence[Sequence[Buffer]]) -> None:
        """Put the generation, then the pieces of each tensor one after the other."""
        memory = self.file.bytes
        position = place.offset - self._share.offset
        HEADER.pack_into(memory.data, position, place.generation)
        position += ALIGNMENT
        for pieces in tensors:
            for piece in pieces:
                end = position + len(piece)
                # numpy copies without the interpreter's lock; slice assignment of an mmap would hold it.
                np.copyto(memory[position:end], np.frombuffer(piece, np.uint8))
                position = end
            position = aligned(position)

    def give_back(self, place: Span) -> None:
        """Its reader has answered."""
        with self._lock:
            self._free(place)

    def quarantine(self, place: Span, reader: str) -> None:
        """Nobody waits for this reader's answer any more, but it may still read."""
        with self._lock:
            self._quarantined.setdefault(reader, []).append((now_us(), place))

    def answered(self, reader: str, sent_us: int) -> None:
        """`reader` has answered a request sent at `sent_us`: it has read all that was sent to it before."""
        if reader in self._quarantined:
            self._release(reader, sent_us)

    def dead(self, reader: str) -> None:
        """`reader` is gone and reads no more."""
        if reader in self._quarantined:
            self._release(reader, now_us() + 1)

    def end_old_quarantines(self, time_us: int) -> None:
        """Free the places whose readers have been silent for too long."""
        for reader in list(self._quarantined):
            self._release(reader, time_us - QUARANTINE_US)

    @property
    def quarantined(self) -> int:
        """Bytes of places that wait for a sign of their reader."""
        return sum(place.size for places in self._quarantined.values() for _, place in places)

    @property
    def taken(self) -> int:
        """Bytes of places with a batch on its way."""
        with self._lock:
            return self._share.size - self._space.free - self.quarantined

    @property
    def free(self) -> int:
        """Bytes that can be taken, perhaps not in one piece."""
        return self._space.free

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def _free(self, place: Span) -> None:
        self._space.give_back(place.offset - self._share.offset, place.size)

    def _release(self, reader: str, before_us: int) -> None:
        with self._lock:
            places = self._quarantined.pop(reader, [])
            kept = [(since_us, place) for since_us, place in places if since_us >= before_us]
            if kept:
                self._quarantined[reader] = kept
            for since_us, place in places:
                if since_us < before_us:
                    self._free(place)


def padded_size(sizes: Sequence[int]) -> int:
    """Bytes of a place that tensors of these sizes take: what take() is to be asked for."""
    return ALIGNMENT + sum([aligned(size) for size in sizes])


def share_of(offset: int, sizes: Sequence[int], batches: int) -> Share:
    """A share from `offset` on with room for so many batches of tensors of these sizes."""
    return Share(offset=offset, size=-(-padded_size(sizes) * batches // PAGE) * PAGE)
