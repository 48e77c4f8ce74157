"""Results by name, kept in a JSON file, so that a long benchmark can be made in pieces.

A file belongs to one set of settings; with others it is refused. Each result is written as soon as it is
there, and a run that is cut short leaves the file whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Plain = Mapping[str, Any]
"""A result as JSON has it."""


class Kept:
    """Without a path results are kept in memory only. Raises ValueError for a file of other settings."""

    def __init__(self, path: Path | None, settings: Plain) -> None:
        self._path = path
        self._settings = json.loads(json.dumps(settings))
        self._results: dict[str, Plain] = {}
        if path is not None and path.is_file():
            plain = json.loads(path.read_text(encoding="utf-8"))
            there = plain.get("settings")
            if there != self._settings:
                raise ValueError(
                    f"{path}: of settings {there}; these are {self._settings}: give another file"
                )
            self._results = plain["results"]

    def __contains__(self, name: str) -> bool:
        return name in self._results

    def __getitem__(self, name: str) -> Plain:
        return self._results[name]

    def named(self, prefix: str) -> Iterator[Plain]:
        """The results whose names begin so, oldest first."""
        return (result for name, result in self._results.items() if name.startswith(prefix))

    def add(self, name: str, result: Plain) -> None:
        """Keep a result; one of that name is replaced."""
        self._results[name] = result
        if self._path is not None:
            new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            new.write_text(json.dumps({"settings": self._settings, "results": self._results}))
            new.replace(self._path)
