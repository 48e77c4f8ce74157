"""The load that holds in most of the scenarios that may come, from simulating a few of them.

Rules
- `load_in_most` is quick and says what was so in these scenarios: for choosing between plans.
- `promise_of` is for promises: what a share of *all* scenarios like these hold, with CONFIDENCE. It is
  the lower one-sided tolerance limit of a normal distribution, mean - k deviations of the scenarios' own
  loads, by Natrella's approximation of k (NBS Handbook 91, 2-13; within 3 % from 10 scenarios on), and never
  more than `load_in_most`: of 20 scenarios 19 may hold a load that only 90 % of all do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from planner.serving import ServedModel
from python_backend.simulator.capacity import TARGET, Workload, find_capacity, highest_reached, try_load

CONFIDENCE = 0.9
MOST_HELD = 0.999
"""Of a share of 1, no finite number of scenarios tells."""


def load_in_most(
    served: ServedModel,
    policy: str,
    rates_rps: Sequence[float],
    scenarios: Sequence[Workload],
    held_in: float,
    guess_rps: float,
    target: float = TARGET,
) -> float:
    """The highest of `rates_rps` (ascending) that is served at `target` in at least the share `held_in` of
    the scenarios; 0.0 where none is. A scenario that failed is asked first the next time.
    """
    may_fail = _may_fail(len(scenarios), held_in)
    order = list(range(len(scenarios)))

    def reached(index: int) -> bool:
        failed: list[int] = []
        for number in list(order):
            if try_load(served, policy, rates_rps[index], scenarios[number], target).attainment is None:
                failed.append(number)
                order.remove(number)
                order.insert(0, number)
            if len(failed) > may_fail:
                return False
        return True

    index = highest_reached(rates_rps, guess_rps, reached)
    return rates_rps[index] if index >= 0 else 0.0


def loads_in(
    served: ServedModel,
    policy: str,
    rates_rps: Sequence[float],
    scenarios: Sequence[Workload],
    guess_rps: float,
) -> list[float]:
    """Of each scenario the highest of `rates_rps` (ascending) that is served at 99 %."""
    loads = []
    for scenario in scenarios:
        loads.append(find_capacity(served, policy, rates_rps, scenario, guess_rps).load_rps)
        guess_rps = loads[-1] or guess_rps
    return loads


def promise_of(loads_rps: Sequence[float], held_in: float) -> float:
    """The load that at least the share `held_in` of all scenarios like those of these loads serve. 0.0 where
    too many serve none.
    """
    loads = sorted(loads_rps)
    in_most = loads[_may_fail(len(loads), held_in)]
    if len(loads) < 2 or in_most <= 0:
        return in_most
    limit = fmean(loads) - tolerance_factor(len(loads), held_in) * stdev(loads)
    return max(0.0, min(in_most, limit))


def tolerance_factor(count: int, share: float, confidence: float = CONFIDENCE) -> float:
    """How many deviations below the mean of `count` normal values a limit must be, so that at least `share`
    of all values lie above it.
    """
    of_share = NormalDist().inv_cdf(min(share, MOST_HELD))
    of_confidence = NormalDist().inv_cdf(confidence)
    a = max(1e-3, 1 - of_confidence**2 / (2 * (count - 1)))
    b = of_share**2 - of_confidence**2 / count
    return (of_share + math.sqrt(max(0.0, of_share**2 - a * b))) / a


def _may_fail(count: int, held_in: float) -> int:
    return count - max(1, math.ceil(held_in * count - 1e-9))
