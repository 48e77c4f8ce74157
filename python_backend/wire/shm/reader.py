"""The receiving end of a hop through shared memory: a stage maps the file of each server that sends to it,
once, and sees batches where their senders wrote them. Nothing is copied.

Rules: a file is known by its name and inode, so the file of a restarted server is mapped anew; only a file of
our own user is mapped; mappings of files that are gone are dropped when a new one is made. Arrays are
writable because torch takes no others; nobody writes in them.
"""

from __future__ import annotations

import mmap
import os
import re
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from planner.profile import TensorSpec
from python_backend.wire.kserve import NUMPY_OF, Array
from python_backend.wire.shm.arena import HEADER
from python_backend.wire.shm.file import SHM, is_own
from python_backend.wire.shm.space import ALIGNMENT, aligned
from python_backend.wire.ticket_codec import SharedFrames

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_Memory = npt.NDArray[np.uint8]


class CannotRead(Exception):
    """The batch is not to be had this way; the sender should put it into the message."""


class SharedReader:
    """Thread-safe."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int], _Memory] = {}
        self._lock = threading.Lock()

    def arrays(self, frames: SharedFrames, specs: Sequence[TensorSpec], batch: int) -> list[Array]:
        """Views of the tensors of a batch. Raises CannotRead."""
        memory = self._memory(frames)
        position = frames.offset + ALIGNMENT
        views: list[Array] = []
        for spec in specs:
            end = position + spec.bytes_per_frame * batch
            self._require(frames, position, end, len(memory))
            views.append(memory[position:end].view(NUMPY_OF[spec.dtype]).reshape(batch, *spec.shape))
            position = aligned(end)
        return views

    def pieces(self, frames: SharedFrames, sizes: Sequence[int]) -> list[memoryview]:
        """Views of the frames of a ragged batch. Raises CannotRead."""
        memory = self._memory(frames)
        position = frames.offset + ALIGNMENT
        views: list[memoryview] = []
        for size in sizes:
            end = position + size
            self._require(frames, position, end, len(memory))
            views.append(memory[position:end].data)
            position = aligned(end)
        return views

    @staticmethod
    def _require(frames: SharedFrames, position: int, end: int, size: int) -> None:
        if frames.offset < 0 or frames.offset % ALIGNMENT or end > size:
            raise CannotRead(f"{frames.name}: no bytes {position} to {end} in a file of {size}")

    def is_there(self, frames: SharedFrames) -> bool:
        """Whether its place still has this batch."""
        memory = self._files.get((frames.name, frames.inode))
        return memory is not None and HEADER.unpack_from(memory.data, frames.offset)[0] == frames.generation

    def close(self) -> None:
        """Forget all mappings; each goes when its last array does."""
        self._files.clear()

    def _memory(self, frames: SharedFrames) -> _Memory:
        key = (frames.name, frames.inode)
        with self._lock:
            memory = self._files.get(key)
            if memory is None:
                memory = _map(frames)
                self._files = {key: each for key, each in self._files.items() if _exists(*key)}
                self._files[key] = memory
        return memory


def _map(frames: SharedFrames) -> _Memory:
    if not _NAME.fullmatch(frames.name):
        raise CannotRead(f"{frames.name!r:.80} is no name of a file in {SHM}")
    try:
        descriptor = os.open(SHM / frames.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CannotRead(f"{SHM / frames.name}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not is_own(status):
            raise CannotRead(f"{SHM / frames.name}: not a file of this user")
        if status.st_ino != frames.inode:
            raise CannotRead(f"{SHM / frames.name}: another file has taken its name")
        return np.frombuffer(mmap.mmap(descriptor, status.st_size), np.uint8)
    finally:
        os.close(descriptor)


def _exists(name: str, inode: int) -> bool:
    try:
        return (SHM / name).stat().st_ino == inode
    except OSError:
        return False
