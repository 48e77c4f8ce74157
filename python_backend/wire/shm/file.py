"""The one file in /dev/shm through which everything leaves a server: every process of that server that sends
batches writes in a range of its own.

Rules
- Ranges are laid out from the manifest (wire.shm.layout), so processes agree on them without talking.
- A range is locked (an open file description lock) by the process that writes in it, and the kernel unlocks
  it when that process dies. A model loaded again while its old process still ends finds its range taken.
- Whoever finds at its end that no range is locked any more removes the file. A killed server's file is swept
  by its supervisor, by the server's prefix.
- It is made for its owner alone. A file of that name that somebody else made before is left alone: whoever
  made it reads along and can change what is sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SHM = Path("/dev/shm")
PREFIX_VARIABLE = "PPIPE_SHM_PREFIX"
PAGE = 4096
_FLOCK = struct.Struct("@hhqqi4x")
_RETRY_S = 0.05


class ArenaError(RuntimeError):
    """Shared memory that cannot be had: the message says how much is wanted and how much there is."""


@dataclass(frozen=True)
class Share:
    """Bytes [offset, offset + size) of a file, for one sender. Whole pages."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.size


class SharedFile:
    """One process's hold on its range of a file of `size` bytes. Raises ArenaError, OSError."""

    def __init__(self, name: str, size: int, share: Share, patience_s: float = 2.0) -> None:
        self.name = prefix() + name
        self._path = SHM / self.name
        self._share = share
        end_s = time.monotonic() + patience_s
        while (descriptor := _open(self._path, size, share)) is None:
            if time.monotonic() > end_s:
                raise ArenaError(f"{name}: another process writes in bytes {share.offset} to {share.end}")
            time.sleep(_RETRY_S)
        self._descriptor = descriptor
        self.inode = os.fstat(descriptor).st_ino
        self._map = mmap.mmap(descriptor, share.end - share.offset, offset=share.offset)
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    def close(self) -> None:
        """Let go; the last one removes the file. Readers that have it mapped keep its pages."""
        self.bytes = np.empty(0, np.uint8)
        with contextlib.suppress(BufferError):  # a write under way keeps its view; the pages go with it
            self._map.close()
        let_go(self._path, self._descriptor, self._share)


def prefix() -> str:
    """What this server's names begin with. All processes of a server have it, and no other server."""
    return os.environ.get(PREFIX_VARIABLE) or f"ppipe_{os.getpid()}_"


def is_own(status: os.stat_result) -> bool:
    """Whether a file is a plain one of this user: nobody else can have made it, or has it open to write."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def open_own(path: Path) -> int:
    """A file of ours in /dev/shm, opened, made where there is none. Raises ArenaError, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    status = os.fstat(descriptor)
    if not is_own(status):
        os.close(descriptor)
        raise ArenaError(
            f"{path}: made by user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}; "
            f"expected a file of user {os.geteuid()} that nobody else can write: remove it"
        )
    return descriptor


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


def _open(path: Path, size: int, share: Share) -> int | None:
    """The file, opened, of its full size, with the share locked; None when another has the lock."""
    descriptor = open_own(path)
    try:
        # The last one out may remove the file between our opening and locking it.
        if lock(descriptor, fcntl.F_WRLCK, share) and is_at(path, descriptor):
            status = os.fstat(descriptor)
            require_room(size - status.st_blocks * 512)
            if status.st_size < size:
                os.ftruncate(descriptor, size)
            return descriptor
    except BaseException:
        let_go(path, descriptor, share)
        raise
    os.close(descriptor)
    return None


def let_go(path: Path, descriptor: int, share: Share | None) -> None:
    """Unlock a share, or the whole file, and close; remove the file if nobody else has a lock on it."""
    lock(descriptor, fcntl.F_UNLCK, share)
    if lock(descriptor, fcntl.F_WRLCK, None) and is_at(path, descriptor):
        path.unlink(missing_ok=True)
    os.close(descriptor)


def remove_left(ending: str) -> None:
    """Remove files of ours that end so and that nobody holds: those of processes that were killed with all
    that would have swept them. Whoever makes such a file holds a lock on it, and makes it anew where it was
    removed before it was locked.
    """
    for path in SHM.glob(f"ppipe_*_{ending}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            if is_own(os.fstat(descriptor)):
                let_go(path, descriptor, None)
            else:
                os.close(descriptor)


def lock(descriptor: int, kind: int, share: Share | None) -> bool:
    """Lock or unlock a share, or the whole file; whether that worked."""
    start, length = (0, 0) if share is None else (share.offset, share.end - share.offset)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except BlockingIOError:
        return False
    return True


def is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at `path`: another may have removed it, or made one anew."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    return False
