"""Measured points of the testbed: one system under one trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from benchmarks.helpers.loads.tagged import TaggedFrame


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
    reserve_us: int
    """What the dispatcher kept free before deadlines, median of the run; 0 without a dispatcher."""

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
        reserve_us=round(host["reserve_us"]),
    )


def point_from(plain: Mapping[str, Any]) -> Point:
    """As asdict made it, after JSON; what else is there is left alone."""
    own = {field.name: plain[field.name] for field in fields(Point)}
    return Point(**own | {"latency_us": tuple(plain["latency_us"])})
