"""A file that somebody replaces now and then, and that is read again when that has happened."""

from __future__ import annotations

from pathlib import Path


class Watched:
    """Tells once of each replacement of a file (planner.serial.save), at the cost of one stat."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Whether another file is there than at the last call that said so; False while there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        changed, self._stamp = stamp != self._stamp, stamp
        return changed

    def forget(self) -> None:
        """What is there counts as changed at the next call."""
        self._stamp = None
