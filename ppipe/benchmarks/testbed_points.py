"""Measured points of the testbed, kept in a file, so that a long run can be made in pieces.

A point is one system under one trace. The file belongs to one set of settings; with others it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppipe.benchmarks.tagged_load import TaggedFrame


@dataclass(frozen=True)
class Point:
    """latency_us[i]: from sending frame i to its answer; None without an answer, or with an error."""

    latency_us: tuple[int | None, ...]
    unanswered: int
    wrong: int
    duplicate: int
    late_sends: int
    """Frames that the client sent more than 5 ms after they were due."""
    busy_share: float
    servers_share: float

    def in_time(self, slo_us: int) -> list[bool]:
        """Per frame, whether it was answered with outputs within the SLO."""
        return [us is not None and us <= slo_us for us in self.latency_us]


def point_of(frames: Sequence[TaggedFrame], host: Mapping[str, float]) -> Point:
    """What came of one trace."""
    return Point(
        latency_us=tuple(
            None if frame.ended_s is None or frame.error else round((frame.ended_s - frame.sent_s) * 1e6)
            for frame in frames
        ),
        unanswered=sum(frame.answers == 0 for frame in frames),
        wrong=sum(frame.wrong for frame in frames),
        duplicate=sum(frame.answers > 1 for frame in frames),
        late_sends=sum(frame.sent_s - frame.due_s > 0.005 for frame in frames),
        busy_share=host["busy_share"],
        servers_share=host["servers_share"],
    )


class Points:
    """Points by name. With a path, each is written to it as soon as it is measured."""

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = dict(settings)
        self._points: dict[str, Point] = {}
        if path is not None and path.is_file():
            plain = json.loads(path.read_text())
            if plain["settings"] != self._settings:
                raise ValueError(f"{path}: of settings {plain['settings']}; these are {self._settings}")
            for name, fields in plain["points"].items():
                self._points[name] = Point(**fields | {"latency_us": tuple(fields["latency_us"])})

    def __contains__(self, name: str) -> bool:
        return name in self._points

    def __getitem__(self, name: str) -> Point:
        return self._points[name]

    def add(self, name: str, point: Point) -> None:
        """Keep a point."""
        self._points[name] = point
        if self._path is not None:
            points = {each: asdict(kept) for each, kept in self._points.items()}
            self._path.write_text(json.dumps({"settings": self._settings, "points": points}))
