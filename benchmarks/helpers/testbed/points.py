"""Measured points of the testbed: one system under one trace."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from benchmarks.helpers.kept import Kept
from benchmarks.helpers.loads.tagged import TaggedFrame
from benchmarks.helpers.testbed.plan import MODEL
from benchmarks.helpers.testbed.system import System
from python_backend.simulator.arrivals import Poisson

MOST_BUSY = 0.7
"""Share of the whole host; a point during which it was busier says more of other programs than of this."""
DISCARDED = "busy host/"


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


def key_of(system: str, trace: object) -> str:
    """What a point is kept under."""
    return f"{system}/{trace}"


def trace_of(rate_rps: float, frames: int, seed: int) -> list[int]:
    """When so many Poisson arrivals come, in microseconds."""
    times = Poisson(rate_rps).times_us(1.2 * frames / rate_rps + 10, seed, MODEL)
    return [time_us for _, time_us in zip(range(frames), times, strict=False)]


def measure(
    systems: Mapping[str, System],
    wanted: Mapping[str, Mapping[Any, Sequence[int]]],
    points: Kept,
    most: int,
    most_busy: float = MOST_BUSY,
) -> list[str]:
    """Measure up to `most` of the points that are not there; returns the names of those still missing.
    wanted: per system its traces by name.
    """
    for name, system in systems.items():
        missing = {at: trace for at, trace in wanted[name].items() if key_of(name, at) not in points}
        if not missing or most <= 0:
            continue
        with system:
            for at, trace in list(missing.items())[:most]:
                point = point_of(*system.replay(trace))
                key = key_of(name, at)
                if point.busy_share > most_busy:
                    key = f"{DISCARDED}{key}/{time.time_ns()}"
                points.add(key, dataclasses.asdict(point) | {"load": at})
                most -= 1
    return [
        key_of(name, at) for name, traces in wanted.items() for at in traces if key_of(name, at) not in points
    ]


def discarded(points: Kept, slo_us: int) -> list[Mapping[str, Any]]:
    """What is told of points that are measured again."""
    return [
        {
            "load_factor": plain["load"],
            "measured_attainment": round(statistics.mean(point_from(plain).in_time(slo_us)), 4),
            "host_busy_share": round(point_from(plain).busy_share, 3),
        }
        for plain in points.named(DISCARDED)
    ]
