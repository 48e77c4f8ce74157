"""A folder that is its owner's alone, and stays the one that was checked.

Rules
- Owner and mode are those of the open folder, and are looked at again at each use.
- It is held open: whoever can write in a folder above it may put another in its place, which changes nothing
  for who reads here.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class NotPrivate(ValueError):
    """A folder in which others may write, or that is none; the message names it."""


class PrivateFolder:
    """See the module. `path`: leads to the open folder, wherever that lies by now. Used by one thread."""

    def __init__(self, named: Path) -> None:
        """Raises NotPrivate."""
        self.named = named
        try:
            self._descriptor = os.open(named, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotPrivate(f"{named} is no folder; expected one of user {os.geteuid()}") from error
        self.path = Path(f"/proc/self/fd/{self._descriptor}")
        try:
            self.check()
        except NotPrivate:
            self.close()
            raise

    def check(self) -> None:
        """Raises NotPrivate where others may write in it now."""
        status = os.fstat(self._descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise NotPrivate(
                f"{self.named} is of user {status.st_uid} with mode {status.st_mode & 0o777:o}; "
                f"expected a folder of user {os.geteuid()} that nobody else can write in"
            )

    def close(self) -> None:
        """Let go of it. Twice is as good as once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)
