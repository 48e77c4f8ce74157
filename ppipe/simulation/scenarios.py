"""Draws what may come, once per problem: seeds of arrivals and jitter, and how wrong each latency is.

Rules
- A scenario is drawn for the problem, not for a plan: every plan that is judged meets the same ones. What is
  wrong with a block's latency on a class is so in every stage that runs it.
- Seeds are FIRST_SEED and up, never those that results are reported on.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from planner.expectation import Expectation, jitter_of, slowdown_of
from planner.plan import ModelPlan, Stage
from planner.problem import Problem
from planner.profile import ModelProfile
from python_backend.simulator.arrivals import Gamma, Poisson, parse_arrivals
from python_backend.simulator.capacity import Workload
from python_backend.simulator.jitter import Jitter, StageJitter

FIRST_SEED = 90_001
DISPERSION_WINDOWS = 400
"""Stretches of time over which arrivals are counted, where no formula says how bursty they are."""
MOST_DISPERSION = 100.0
MOST_JITTER = 0.99


@dataclass(frozen=True)
class Scenario:
    """One course of things; its seed draws arrivals, jitter and errors."""

    seed: int


def scenarios_of(count: int, first_seed: int = FIRST_SEED) -> tuple[Scenario, ...]:
    """So many scenarios; a longer list begins with the shorter one."""
    return tuple(Scenario(first_seed + number) for number in range(count))


def workloads(
    scenarios: Sequence[Scenario],
    problem: Problem,
    planned: ModelPlan,
    seconds: float,
    jitter_times: float = 1.0,
) -> list[Workload]:
    """What one model of a plan meets in each scenario, `seconds` long, with so many times the jitter."""
    expect = problem.options.expect
    profile = problem.profile.model(planned.model)
    found = []
    for scenario in scenarios:
        jitter = Jitter(
            straggler_probability=expect.stragglers,
            straggler_factor=expect.straggler_factor,
            stages=tuple(
                tuple(
                    _stage_jitter(profile, stage, expect, scenario, jitter_times) for stage in pipeline.stages
                )
                for pipeline in planned.pipelines
            ),
        )
        found.append(Workload(expect.arrivals, seconds, (scenario.seed,), jitter))
    return found


def _stage_jitter(
    profile: ModelProfile, stage: Stage, expect: Expectation, scenario: Scenario, jitter_times: float
) -> StageJitter:
    """The blocks' jitter and errors, weighed by what they take."""
    table = profile.table(stage.gpu, stage.slices_per_gpu)
    assert table is not None  # it was planned with
    errors = _errors(profile, stage.gpu, slowdown_of(table, expect), scenario)
    column = table.batch_sizes.index(stage.batch_size)
    blocks = range(stage.blocks.start, stage.blocks.end)
    took = [table.latency_us[block][column] for block in blocks]
    total = sum(took) or 1.0
    jitter = sum(
        us * jitter_of(table, block, stage.batch_size, expect) for block, us in zip(blocks, took, strict=True)
    )
    wrong = sum(us * errors[block] for block, us in zip(blocks, took, strict=True))
    return StageJitter(share=min(MOST_JITTER, jitter_times * jitter / total), factor=1.0 + wrong / total)


def _errors(profile: ModelProfile, gpu: str, most: float, scenario: Scenario) -> list[float]:
    """Per block, how much longer it takes on this class than its profile says, as a share."""
    rng = np.random.default_rng([scenario.seed, zlib.crc32(f"{profile.model}/{gpu}".encode()), 2])
    return [float(error) for error in most * rng.uniform(-1.0, 1.0, profile.block_count)]


def dispersion_of(arrivals: str, rate_rps: float, window_s: float) -> float:
    """Variance over mean of the number of arrivals in a long stretch of time: 1 for Poisson, cv^2 for gaps of
    that coefficient of variation, else counted over windows of `window_s`. Raises ArrivalError.
    """
    process = parse_arrivals(arrivals, rate_rps)
    if type(process) is Poisson:
        return 1.0
    if isinstance(process, Gamma):
        return min(MOST_DISPERSION, process.cv**2)
    seconds = DISPERSION_WINDOWS * window_s
    edges = np.arange(DISPERSION_WINDOWS + 1) * window_s * 1e6
    places = np.searchsorted(np.array(list(process.times_us(seconds, FIRST_SEED))), edges)
    counts = np.array([after - before for before, after in pairwise(places)], dtype=float)
    mean = float(counts.mean())
    found = float(counts.var()) / mean if mean else 1.0
    return min(MOST_DISPERSION, found) if math.isfinite(found) else 1.0
