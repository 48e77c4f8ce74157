"""What was done to a fleet and why: one line of JSON for each rollout, never changed afterwards."""

from __future__ import annotations

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
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise HistoryFault(f"{self.path}: {error.strerror}; not recorded: {line.strip()}") from error

    def entries(self) -> tuple[HistoryEntry, ...]:
        """All, oldest first. Raises HistoryFault for a line that is no entry."""
        if not self.path.exists():
            return ()
        found = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                found.append(serial.loads(HistoryEntry, line, f"{self.path}:{number}"))
            except serial.FormatError as error:
                raise HistoryFault(str(error)) from error
        return tuple(found)
