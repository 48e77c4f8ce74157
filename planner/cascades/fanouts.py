"""How many frames come of an answer, drawn: with the mean and the spread that are stated, whatever the most.

Chances are those of Poisson's distribution, or of the negative binomial one where frames vary more. What is
above the most is cut off; then they are tilted, p_k e^(t k + s k^2), so that mean and variance are as stated:
rates are planned by the one, waiting by the other. Of all distributions with these two the tilted one is the
nearest to the first (it has the least relative entropy).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from planner.cascades.data import Fanout

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_ALIKE = 1e-9
"""Mean and variance that differ by less are Poisson's: a root and its square do not quite meet."""
_NEAR = 1e-9
"""Of mean and variance: found to this share."""
_DOUBLINGS, _HALVINGS = 40, 60


def draw_counts(fanout: Fanout, size: int, rng: np.random.Generator) -> Counts:
    """How many frames come of each of `size` answers."""
    return np.asarray(np.searchsorted(_sums(fanout), rng.random(size), side="right"), dtype=np.int64)


@functools.cache
def _sums(fanout: Fanout) -> Floats:
    """[k]: the chance of at most k, without the last one, which is 1."""
    return np.cumsum(chances(fanout))[:-1]


def chances(fanout: Fanout) -> Floats:
    """[k]: of k frames, from none to the most."""
    if fanout.mean >= fanout.most or fanout.variance <= fanout.least_variance * (1 + _ALIKE):
        return _least_spread(min(fanout.mean, fanout.most), fanout.most)
    counts, logs = np.arange(fanout.most + 1, dtype=np.float64), _logs(fanout)
    away = counts - fanout.mean
    scale = float(np.abs(away).max())

    def with_mean(bend: float) -> Floats:
        bent = logs + bend * (away / scale) ** 2

        def off(tilt: float) -> float:
            return float((_normed(bent + tilt * away / scale) * away).sum()) / fanout.mean

        return _normed(bent + _rising_to_zero(off) * away / scale)

    def spread_off(bend: float) -> float:
        return float((with_mean(bend) * away**2).sum()) / fanout.variance - 1

    return with_mean(_rising_to_zero(spread_off))


def _least_spread(mean: float, most: int) -> Floats:
    """The two whole numbers around the mean."""
    below = math.floor(mean)
    found = np.zeros(most + 1)
    found[below] = 1 - (mean - below)
    if below < most:
        found[below + 1] = mean - below
    return found


def _logs(fanout: Fanout) -> Floats:
    """Of the chances before they are tilted, but for a constant."""
    after = np.arange(1, fanout.most + 1, dtype=np.float64)
    if fanout.variance <= fanout.mean * (1 + _ALIKE):
        steps = np.log(fanout.mean / after)
    else:
        trials = fanout.mean**2 / (fanout.variance - fanout.mean)
        steps = np.log((after - 1 + trials) / after) + math.log1p(-fanout.mean / fanout.variance)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _normed(logs: Floats) -> Floats:
    weights = np.exp(logs - logs.max())
    normed: Floats = weights / weights.sum()
    return normed


def _rising_to_zero(off: Callable[[float], float]) -> float:
    """Where a rising function is about 0; as near as there is."""
    first = off(0.0)
    if abs(first) <= _NEAR:
        return 0.0
    near, far = 0.0, -1.0 if first > 0 else 1.0
    for _ in range(_DOUBLINGS):
        if (off(far) > 0) != (first > 0):
            break
        near, far = far, 2 * far
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        found = off(middle)
        if abs(found) <= _NEAR:
            return middle
        near, far = (middle, far) if (found > 0) == (first > 0) else (near, middle)
    return far
