"""Timings kept while a profile is being made, so that an interrupted one goes on where it was.

One line of JSON per round and batch, appended and flushed at once. A line names what it is of: split, device,
slices, options. Lines of anything else are left alone, and a line cut short by a kill is no line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.profiling.network import Times


class Partial:
    """The kept timings of one measurement. Without a path nothing is kept."""

    def __init__(self, path: Path | None, identity: Mapping[str, str]) -> None:
        self._path = path
        self._identity = dict(sorted(identity.items()))
        self._known: dict[tuple[int, int], Times] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._read(line)
            _end_last_line(path)

    def get(self, repeat: int, batch: int) -> Times | None:
        """What was timed in this round at this batch size."""
        return self._known.get((repeat, batch))

    @property
    def known(self) -> frozenset[tuple[int, int]]:
        """(round, batch) of all that is kept."""
        return frozenset(self._known)

    def add(self, repeat: int, batch: int, times: Times) -> None:
        """Keep it."""
        self._known[repeat, batch] = times
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"of": self._identity, "round": repeat, "batch": batch, "us": times})
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _read(self, line: str) -> None:
        try:
            record: Any = json.loads(line)
            if record["of"] == self._identity:
                self._known[int(record["round"]), int(record["batch"])] = tuple(map(float, record["us"]))
        except (ValueError, TypeError, KeyError):
            return


def _end_last_line(path: Path) -> None:
    """What is appended after a line that was cut short must not become part of it."""
    with path.open("rb+") as file:
        if file.seek(0, 2) and file.seek(-1, 2) is not None and file.read(1) != b"\n":
            file.write(b"\n")
