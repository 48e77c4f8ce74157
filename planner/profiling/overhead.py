"""What a stage and a hop cost beside blocks and wire, from timed calls: a fixed part and one per byte.

Robust regression: the slope is the median of the slopes between all pairs of sizes, each weighted by how far
apart the two sizes are (Theil and Sen's estimate, weighted); the fixed part is the median of what is left.
One size that was disturbed moves neither.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.profile import ModelProfile, Overheads, Profile


@dataclass(frozen=True)
class HopTimes:
    """Median microseconds on a deployment's own path, stages that compute nothing.

    one_stage_us: a call of one stage, there and back. two_stages_us: by bytes of the cut, a call of a stage
    that passes a tensor of that size on to a second one on another server. stage_busy_us: what the worker
    of a stage is held for.
    """

    one_stage_us: float
    two_stages_us: Mapping[int, float]
    stage_busy_us: float


@dataclass(frozen=True)
class FoundOverheads:
    """residual: median distance of the timed calls from the fitted line, as a share."""

    overheads: Overheads
    residual: float
    times: HopTimes


def fit_overheads(times: HopTimes, wire_gbps: float | None = None) -> FoundOverheads:
    """Overheads that explain the times. `wire_gbps`: of the link that the hops crossed; its time per byte is
    planned on its own and taken off. None: between servers of one host.
    """
    sizes = sorted(times.two_stages_us)
    beyond = [times.two_stages_us[size] - times.one_stage_us for size in sizes]
    fixed_us, per_byte_us = fit_line(sizes, beyond)
    wire_us = 0.0 if wire_gbps is None else 8e-3 / wire_gbps
    lines = [fixed_us + per_byte_us * size for size in sizes]
    distances = [abs(y - line) / line for y, line in zip(beyond, lines, strict=True) if line > 0]
    return FoundOverheads(
        overheads=Overheads(
            stage_us=round(times.stage_busy_us, 1),
            hop_us=round(max(0.0, fixed_us - times.stage_busy_us), 1),
            hop_us_per_byte=max(0.0, per_byte_us - wire_us),
        ),
        residual=statistics.median(distances) if distances else 0.0,
        times=times,
    )


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """(fixed part, slope), neither below 0. Raises ValueError with fewer than two sizes."""
    if len(set(xs)) < 2:
        raise ValueError(f"a line needs two sizes or more; got {list(xs)}")
    slopes = [
        ((y2 - y1) / (x2 - x1), abs(x2 - x1))
        for (x1, y1), (x2, y2) in itertools.combinations(zip(xs, ys, strict=True), 2)
        if x1 != x2
    ]
    slope = max(0.0, _weighted_median(slopes))
    return max(0.0, statistics.median(y - slope * x for x, y in zip(xs, ys, strict=True))), slope


def _weighted_median(values: Sequence[tuple[float, float]]) -> float:
    half = sum(weight for _, weight in values) / 2
    reached = 0.0
    for value, weight in sorted(values):
        reached += weight
        if reached >= half:
            return value
    raise AssertionError("weights are positive")


def with_overheads(profile: Profile, found: FoundOverheads) -> Profile:
    """The profile with these overheads for every model, and what they rest on."""
    times = {str(size): round(us, 1) for size, us in sorted(found.times.two_stages_us.items())}
    note = {
        "one_stage_us": round(found.times.one_stage_us, 1),
        "two_stages_us": times,
        "residual": round(found.residual, 3),
    }
    return Profile(models=tuple(_with(model, found.overheads, json.dumps(note)) for model in profile.models))


def _with(model: ModelProfile, overheads: Overheads, note: str) -> ModelProfile:
    return dataclasses.replace(model, overheads=overheads, provenance={**model.provenance, "overheads": note})
