"""Where the servers of a deployment are: addresses.json (planner.places), read again when it was replaced.

A file that cannot be read, or is in the making, leaves the addresses of the one before in force.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from planner import serial
from planner.places import ServerTable
from planner.watched import Watched
from python_backend.wire.clock import now_us

_LOOK_US: Final = 500_000


class Servers:
    """See the module. Thread-safe."""

    def __init__(self, path: Path, look_us: int = _LOOK_US) -> None:
        """Raises OSError, planner.serial.FormatError."""
        self._look_us = look_us
        self._looked_us = now_us()
        self._watched = Watched(path)
        self._watched.changed()
        self._table = serial.load(ServerTable, path)

    @property
    def table(self) -> ServerTable:
        """As it is now; the same object as long as the file is the same."""
        time_us = now_us()
        if time_us - self._looked_us >= self._look_us:
            self._looked_us = time_us
            if self._watched.changed():
                with contextlib.suppress(OSError, serial.FormatError):
                    self._table = serial.load(ServerTable, self._watched.path)
        return self._table
