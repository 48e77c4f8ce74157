"""Scenarios: the same for every plan, drawn once; what holds in most of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist, fmean, stdev

import numpy as np
import pytest

from benchmarks.paper.capacity import Options
from planner.expectation import Expectation
from planner.planning import plan
from planner.serving import ServedModel
from planner.serving_build import served_model
from ppipe.simulation.scenarios import dispersion_of, scenarios_of, workloads
from python_backend.simulator import guarantee
from python_backend.simulator.arrivals import ArrivalError
from python_backend.simulator.capacity import TriedLoad, Workload, try_load
from python_backend.simulator.guarantee import computed_rps, load_in_most, loads_in, promise_of
from python_backend.simulator.jitter import Jitter, StageJitter
from tests.fixtures.made_problems import MadeSize, made_problem

PROBLEM = made_problem(MadeSize(gpus=10, classes=2, models=1, blocks=5, max_slices=2), seed=3)
MADE = plan(PROBLEM)
SERVED = served_model(MADE, PROBLEM, "net00")


def met(expect: Expectation, count: int = 4) -> list[Workload]:
    problem = replace(PROBLEM, options=replace(PROBLEM.options, expect=expect))
    return workloads(scenarios_of(count), problem, MADE.models[0], 1.5)


def test_seeds_are_never_those_of_reported_results() -> None:
    seeds = {scenario.seed for scenario in scenarios_of(1000)}
    assert not seeds & set(Options(seeds=1000).workload().seeds)


def test_errors_are_drawn_per_scenario_and_stay_within_what_is_expected() -> None:
    first, again = met(Expectation(slowdown=0.15)), met(Expectation(slowdown=0.15))
    assert first == again == met(Expectation(slowdown=0.15), 6)[:4]
    factors = [[stage.factor for pipeline in one.jitter.stages for stage in pipeline] for one in first]
    assert len({tuple(row) for row in factors}) == len(factors)
    assert all(0.85 <= factor <= 1.15 for row in factors for factor in row)
    assert max(max(row) for row in factors) > 1.03
    assert not any(one.jitter.varies for one in met(Expectation(jitter=0.0)))


def test_a_stage_that_takes_longer_holds_less() -> None:
    rates = [SERVED.planned_rps * step / 50 for step in range(5, 60)]

    def held(factor: float) -> float:
        stages = tuple(
            tuple(StageJitter(share=0.02, factor=factor) for _ in pipeline.stages)
            for pipeline in SERVED.pipelines
        )
        met_once = [Workload("poisson", 4.0, (1,), Jitter(stages=stages))]
        return load_in_most(SERVED, "adaptive", rates, met_once, 1.0, rates[40])

    assert held(1.0) > 1.1 * held(1.3) > 0


def test_what_is_guaranteed_holds_in_the_share_that_is_asked() -> None:
    scenarios = met(Expectation(jitter=0.1, slowdown=0.2), 8)
    rates = [SERVED.planned_rps * step / 40 for step in range(4, 50)]
    loads = {
        held_in: load_in_most(SERVED, "adaptive", rates, scenarios, held_in, rates[20])
        for held_in in (0.5, 1.0)
    }
    assert loads[0.5] >= loads[1.0] > 0
    for held_in, load in loads.items():
        held = [try_load(SERVED, "adaptive", load, one).attainment is not None for one in scenarios]
        assert sum(held) >= held_in * len(scenarios)
    assert load_in_most(SERVED, "adaptive", [1e6], scenarios, 1.0, 1e6) == 0.0


def test_what_most_hold_is_found_by_asking_most_scenarios_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scenarios = met(Expectation(slowdown=0.2), 8)
    rates = [SERVED.planned_rps * step / 40 for step in range(4, 50)]
    loads = sorted(loads_in(SERVED, "adaptive", rates, scenarios, rates[-1]))
    asked: list[Workload] = []

    def counted(served: ServedModel, policy: str, rate: float, one: Workload, target: float) -> TriedLoad:
        asked.append(one)
        return try_load(served, policy, rate, one, target)

    monkeypatch.setattr(guarantee, "try_load", counted)
    for held_in, place in ((1.0, 0), (0.75, 2), (0.5, 4)):
        for guess in (rates[0], loads[place], rates[-1]):
            assert load_in_most(SERVED, "adaptive", rates, scenarios, held_in, guess) == loads[place]
    asked.clear()
    load_in_most(SERVED, "adaptive", rates, scenarios, 1.0, loads[0])
    assert len(asked) <= len(scenarios) + 4


def test_a_promise_holds_in_scenarios_that_were_not_simulated() -> None:
    expect = Expectation(jitter=0.05, slowdown=0.15, held_in=0.9)
    problem = replace(PROBLEM, options=replace(PROBLEM.options, expect=expect))
    rates = [SERVED.planned_rps * step / 100 for step in range(20, 120)]
    seen = workloads(scenarios_of(12), problem, MADE.models[0], 3.0)
    computed, in_all = (
        [computed_rps(SERVED, one) for one in workloads(some, problem, MADE.models[0], 1.0)]
        for some in (scenarios_of(12), scenarios_of(300, first_seed=1000))
    )
    promised = promise_of(loads_in(SERVED, "adaptive", rates, seen, rates[60]), 0.9, computed, in_all)
    assert 0 < promised <= load_in_most(SERVED, "adaptive", rates, seen, 0.9, rates[60])
    others = workloads(scenarios_of(20, first_seed=500), problem, MADE.models[0], 3.0)
    held = [try_load(SERVED, "adaptive", promised, one).attainment is not None for one in others]
    assert sum(held) >= 18


@pytest.mark.parametrize(
    ("count", "share", "confidence", "factor"),
    [(10, 0.9, 0.9, 2.066), (20, 0.95, 0.9, 2.208), (20, 0.95, 0.95, 2.396), (20, 0.95, 0.99, 2.807)],
)
def test_promises_are_tolerance_limits_where_all_compute_alike(
    count: int, share: float, confidence: float, factor: float
) -> None:
    # One-sided factors by the noncentral t distribution. A first load that is low is not what limits.
    loads = [1000.0 + 10 * NormalDist().inv_cdf((place + 0.5) / count) for place in range(count)]
    alike = [2000.0] * count
    promised = promise_of(loads, share, alike, alike * 9, confidence)
    assert (fmean(loads) - promised) / stdev(loads) == pytest.approx(factor, rel=0.03)
    assert promised == promise_of(loads, share, confidence=confidence)


def test_scenarios_that_are_luckier_than_all_promise_no_more() -> None:
    """What is computed in all is known, so that it does not matter which scenarios were simulated."""
    rng = np.random.default_rng(5)
    computed = rng.normal(1000.0, 50.0, 2_000)
    loads = 0.9 * computed + rng.normal(0.0, 10.0, 2_000)
    lucky = computed > np.quantile(computed, 0.6)
    steady = np.abs(computed - computed.mean()) < 25
    for chosen in (lucky, steady, np.full(2_000, True)):
        few = np.flatnonzero(chosen)[:20]
        promised = promise_of(loads[few].tolist(), 0.95, computed[few].tolist(), computed.tolist())
        assert 0.95 <= (loads >= promised).mean() <= 0.999
    naive = promise_of(loads[lucky][:20].tolist(), 0.95)
    assert (loads >= naive).mean() < 0.9


def test_what_is_computed_is_what_each_pipelines_slowest_stage_can() -> None:
    stages = [[StageJitter(0.0) for _ in pipeline.stages] for pipeline in SERVED.pipelines]
    plain = computed_rps(SERVED, Workload())
    assert plain >= SERVED.planned_rps * (1 - 1e-6)
    slower = tuple(tuple(replace(one, factor=1.25) for one in row) for row in stages)
    assert computed_rps(SERVED, Workload(jitter=Jitter(stages=slower))) == pytest.approx(plain / 1.25)
    stages[0][0] = StageJitter(0.0, factor=1e6)
    one_stalls = computed_rps(SERVED, Workload(jitter=Jitter(stages=tuple(map(tuple, stages)))))
    assert one_stalls == pytest.approx(
        computed_rps(replace(SERVED, pipelines=SERVED.pipelines[1:]), Workload()), rel=1e-3
    )


@pytest.mark.parametrize(
    ("arrivals", "low", "high"),
    [
        ("poisson", 1.0, 1.0),
        ("gamma:cv=4", 16.0, 16.0),
        ("mmpp:burst=3,busy_share=0.2,busy_seconds=0.1", 4.0, 80.0),
        ("cameras:fps=30", 0.0, 0.3),
    ],
)
def test_burstiness_is_that_of_the_process(arrivals: str, low: float, high: float) -> None:
    assert low <= dispersion_of(arrivals, 300.0, 0.8) <= high


def test_a_trace_of_one_frame_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("0.5\n", encoding="utf-8")
    with pytest.raises(ArrivalError, match="1 arrival time; a trace needs at least two"):
        dispersion_of(f"trace:path={path}", 300.0, 0.8)
