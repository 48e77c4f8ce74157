"""The load that holds in most of the scenarios that may come, from simulating a few of them.

Rules
- `load_in_most` is quick and says what was so in these scenarios: for choosing between plans.
- `promise_of` is for promises: what a share of *all* scenarios like these hold, with CONFIDENCE. Never more
  than `load_in_most`: of 20 scenarios 19 may hold a load that only 90 % of all do.
- Twenty scenarios can be luckier than all, and so can their spread. But most of a load follows from what the
  workers can compute with a scenario's latencies (`computed_rps`), which is known of any number of scenarios
  without simulating them. So a promise is a tolerance limit by regression: load = level + slope * computed
  + rest, the rest normal. What a few scenarios cannot tell of level, slope and rest is drawn from their
  posterior under a flat prior (Box and Tiao, Bayesian Inference in Statistical Analysis, 2.7). Where all
  scenarios compute alike, that is the one-sided tolerance limit of a normal distribution.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from planner.serving import ServedModel
from python_backend.simulator.capacity import TARGET, Workload, find_capacity, highest_reached, try_load

CONFIDENCE = 0.99
"""That a promise holds in its share. By regression it promises as much as 0.9 did without, more than 0.95 did
(docs/measurements.md, Loads that are guaranteed).
"""
MOST_HELD = 0.999
"""Of a share of 1, no finite number of scenarios tells."""
POSTERIOR_DRAWS = 20_000
Floats = NDArray[np.float64]
FEWEST_FOR_SLOPE = 4
"""Scenarios: with fewer, a slope leaves nothing to tell the rest by."""


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
    the scenarios; 0.0 where none is.

    What most hold is looked for in the scenarios in which workers can compute least. The others are only
    asked for that load, and looked into where they do not serve it.
    """
    least: list[int] = []
    """Of as many scenarios as decide, the highest rate that each reaches, ascending."""
    deciding = _may_fail(len(scenarios), held_in) + 1
    for scenario in sorted(scenarios, key=lambda one: computed_rps(served, one)):
        reached = partial(_reached, served, policy, rates_rps, scenario, target)
        if len(least) < deciding:
            insort(least, highest_reached(rates_rps, guess_rps, reached))
        elif least[-1] >= 0 and not reached(least[-1]):
            below = rates_rps[: least.pop()]
            insort(least, highest_reached(below, below[-1] if below else 0.0, reached))
        guess_rps = rates_rps[max(0, least[-1])]
    return rates_rps[least[-1]] if least[-1] >= 0 else 0.0


def _reached(
    served: ServedModel,
    policy: str,
    rates_rps: Sequence[float],
    scenario: Workload,
    target: float,
    index: int,
) -> bool:
    return try_load(served, policy, rates_rps[index], scenario, target).attainment is not None


def loads_in(
    served: ServedModel,
    policy: str,
    rates_rps: Sequence[float],
    scenarios: Sequence[Workload],
    guess_rps: float,
) -> list[float]:
    """Of each scenario the highest of `rates_rps` (ascending) that is served at 99 %. guess_rps: with
    latencies as planned.
    """
    loads = []
    guess = guess_rps / computed_rps(served, Workload())
    for scenario in scenarios:
        computed = computed_rps(served, scenario)
        loads.append(find_capacity(served, policy, rates_rps, scenario, guess * computed).load_rps)
        guess = loads[-1] / computed or guess
    return loads


def computed_rps(served: ServedModel, workload: Workload) -> float:
    """What the model's workers can compute with this scenario's latencies: of each pipeline what its slowest
    stage can.
    """
    total = 0.0
    for index, pipeline in enumerate(served.pipelines):
        batch = pipeline.batch_size
        jitters = workload.jitter.stages[index] if workload.jitter.stages else ()
        factors = [jitter.factor for jitter in jitters] or [1.0] * len(pipeline.stages)
        total += min(
            1e6 * batch * len(stage.workers) / (factor * stage.latency_us[batch - 1])
            for stage, factor in zip(pipeline.stages, factors, strict=True)
        )
    return total


def promise_of(
    loads_rps: Sequence[float],
    held_in: float,
    computed: Sequence[float] = (),
    computed_in_all: Sequence[float] = (),
    confidence: float = CONFIDENCE,
) -> float:
    """The load that at least the share `held_in` of all scenarios like those of these loads serve. 0.0 where
    too many serve none. computed: `computed_rps` of these scenarios; computed_in_all: of many others.
    """
    in_most = sorted(loads_rps)[_may_fail(len(loads_rps), held_in)]
    if len(loads_rps) < 2 or in_most <= 0:
        return in_most
    loads, known, of_all = (
        np.array(values, dtype=float) for values in (loads_rps, computed, computed_in_all)
    )
    limit = _tolerance_limit(loads, known, of_all, min(held_in, MOST_HELD), confidence)
    return max(0.0, min(in_most, limit))


def _tolerance_limit(loads: Floats, known: Floats, of_all: Floats, share: float, confidence: float) -> float:
    """The load that, with this confidence, at least `share` of all scenarios exceed."""
    count = len(loads)
    columns = [np.ones(count)]
    varies = len(known) >= FEWEST_FOR_SLOPE and len(of_all) > 1 and np.ptp(known) > 0 < np.ptp(of_all)
    if varies:
        columns.append((known - of_all.mean()) / of_all.std())
    given = np.column_stack(columns)
    spread = np.linalg.inv(given.T @ given)
    fitted = spread @ given.T @ loads
    rest = loads - given @ fitted
    rng = np.random.default_rng(1)
    deviation = np.sqrt(rest @ rest / rng.chisquare(count - len(columns), POSTERIOR_DRAWS))
    noise = rng.standard_normal((POSTERIOR_DRAWS, len(columns))) @ np.linalg.cholesky(spread).T
    drawn = fitted + deviation[:, None] * noise
    slopes = drawn[:, 1] if varies else 0.0
    limits = drawn[:, 0] - NormalDist().inv_cdf(share) * np.sqrt(slopes**2 + deviation**2)
    return float(np.quantile(limits, 1 - confidence))


def _may_fail(count: int, held_in: float) -> int:
    return count - max(1, math.ceil(held_in * count - 1e-9))
