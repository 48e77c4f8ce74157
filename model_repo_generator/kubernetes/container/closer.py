"""Keeps shared memory to its owner: Triton gives its regions mode 0644 as a model loads, whatever the umask.

    python3 closer.py PREFIX     until the process that started it has ended

Rules
- Standard library only: this runs in whatever Python an image has, and in ppipe's guard.
- Only regular files of this user whose names begin with a prefix are touched, within a fraction of a
  millisecond of their making.
"""

from __future__ import annotations

import ctypes
import os
import select
import stat
import struct
import sys
from pathlib import Path

SHM = Path("/dev/shm")
LOOK_S = 0.5
_IN_ATTRIB, _IN_CREATE = 4, 256
_EVENT = struct.Struct("iIII")


class Closer:
    """Takes rights of others off files in /dev/shm whose names begin with one of `prefixes`, as they come."""

    def __init__(self, libc: ctypes.CDLL, prefixes: list[str], folder: Path = SHM) -> None:
        self._folder = folder
        self._prefixes = tuple(prefixes)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        libc.inotify_add_watch(self.descriptor, os.fsencode(folder), _IN_ATTRIB | _IN_CREATE)

    def close_new(self) -> None:
        """Of the files that have come or changed since."""
        try:
            events = os.read(self.descriptor, 65_536)
        except BlockingIOError:
            return
        while events:
            length = _EVENT.unpack_from(events)[3]
            self._close(os.fsdecode(events[_EVENT.size : _EVENT.size + length].rstrip(b"\0")))
            events = events[_EVENT.size + length :]

    def close_all(self) -> None:
        """Of all files that are there."""
        for path in self._folder.iterdir():
            self._close(path.name)

    def _close(self, name: str) -> None:
        if not self._prefixes or not name.startswith(self._prefixes):
            return
        path = self._folder / name
        try:
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_mode & 0o077:
                path.chmod(0o600)
        except OSError:
            pass  # it has gone


def main(prefix: str) -> None:
    """Close files until this process has another parent."""
    parent = os.getppid()
    closer = Closer(ctypes.CDLL(None, use_errno=True), [prefix])
    closer.close_all()
    while os.getppid() == parent:
        if select.select([closer.descriptor], [], [], LOOK_S)[0]:
            closer.close_new()


if __name__ == "__main__":
    main(sys.argv[1])
