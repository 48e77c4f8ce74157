"""What was done to a fleet and why: one line of JSON for each rollout, never changed afterwards.

Rules
- A line that could not be written whole is taken back. One that was cut all the same, as by a host that lost
  power, costs itself alone: the next begins on a line of its own, and a reader is told what cannot be read.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from planner import serial

HISTORY_NAME = "history.jsonl"


class HistoryFault(Exception):
    """A history that cannot be written or read; the message names the file."""


@dataclass(frozen=True)
class ModelFigures:
    """One model at one time. served_rps: answered in time, as measured; None where nothing was measured.
    capacity_rps: of the tables that dispatchers had, with the workers that answered.
    """

    capacity_rps: float
    arrived_rps: float | None = None
    served_rps: float | None = None


@dataclass(frozen=True)
class HistoryEntry:
    """One rollout. at: when it began, UTC. cause: 'asked', or one of ppipe.operate.rules.Cause. outcome:
    'done', or why it failed. without: entries, of several, that did not answer when it began, or in between.
    """

    at: str
    deployment: str
    cause: str
    why: str
    origin: int
    target: int
    outcome: str
    seconds: float
    steps: tuple[str, ...] = ()
    before: Mapping[str, ModelFigures] = field(default_factory=dict)
    after: Mapping[str, ModelFigures] = field(default_factory=dict)
    without: tuple[str, ...] = ()


def now_text() -> str:
    """The time for an entry."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class History:
    """The history in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HISTORY_NAME

    def require_writable(self) -> None:
        """Nothing is done that cannot be recorded. Raises HistoryFault."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
        except OSError as error:
            raise HistoryFault(
                f"{self.path}: {error.strerror}; nothing was done, because it could not be recorded"
            ) from error

    def add(self, entry: HistoryEntry) -> None:
        """Append it in one write, so that a reader never sees half a line. Raises HistoryFault."""
        line = json.dumps(serial.to_plain(entry), ensure_ascii=False) + "\n"
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                _append(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise HistoryFault(f"{self.path}: {error.strerror}; not recorded: {line.strip()}") from error

    def entries(self) -> tuple[HistoryEntry, ...]:
        """All that can be read, oldest first. Raises HistoryFault."""
        return self.read()[0]

    def read(self) -> tuple[tuple[HistoryEntry, ...], tuple[str, ...]]:
        """The entries, oldest first, and what is wrong with each line that is none. Raises HistoryFault for a
        file that cannot be read.
        """
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return (), ()
        except OSError as error:
            raise HistoryFault(f"{self.path}: {error.strerror}") from error
        found, faults = [], []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line:
                continue
            try:
                found.append(serial.loads(HistoryEntry, line, f"{self.path}:{number}"))
            except serial.FormatError as error:
                faults.append(str(error))
        return tuple(found), tuple(faults)


def _append(descriptor: int, line: bytes) -> None:
    """All of it or nothing. Raises OSError."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
