"""What preparing a frame costs, from timed frames of several sizes: fixed + per pixel + per byte.

Least squares of the relative errors, none of the three below 0: of all choices of which parts are there, the
best one that has none below 0. Three parts have seven choices, so each is tried.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.frames import FrameCost


@dataclass(frozen=True)
class FrameTime:
    """Of a frame of so many pixels and bytes; us: on one core."""

    pixels: int
    bytes: int
    us: float


@dataclass(frozen=True)
class FoundCost:
    """residual: median distance of the timed frames from the cost, as a share."""

    cost: FrameCost
    residual: float


def fit_cost(times: Sequence[FrameTime], by_bytes: bool = True) -> FoundCost:
    """by_bytes: False where bytes follow from pixels. Raises ValueError with too few different frames."""
    parts = 3 if by_bytes else 2
    rows = np.array([(1.0, time.pixels, time.bytes)[:parts] for time in times])
    if len(np.unique(rows, axis=0)) < parts:
        raise ValueError(f"{parts} different frames are needed to tell {parts} costs apart")
    relative = rows / np.array([[time.us] for time in times])
    fitted = [0.0, 0.0, 0.0]
    least = np.inf
    for chosen in _choices(parts):
        found, *_ = np.linalg.lstsq(relative[:, chosen], np.ones(len(times)), rcond=None)
        error = float(np.sum((relative[:, chosen] @ found - 1) ** 2))
        if np.all(found >= 0) and error < least:
            least = error
            fitted = [0.0, 0.0, 0.0]
            for index, value in zip(chosen, found, strict=True):
                fitted[index] = float(value)
    cost = FrameCost(fitted[0], fitted[1], fitted[2])
    off = [abs(cost.us(time.pixels, time.bytes) / time.us - 1) for time in times]
    return FoundCost(cost, statistics.median(off))


def _choices(parts: int) -> list[list[int]]:
    return [
        list(chosen)
        for count in range(1, parts + 1)
        for chosen in itertools.combinations(range(parts), count)
    ]
