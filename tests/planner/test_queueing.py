"""Room for random arrivals: the formula against simulation, its tangents, and what a plan makes of it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.pipelines import Columns
from planner.plan import ModelPlan, Plan
from planner.planning import plan
from planner.prices import WantedModel
from planner.problem import Objective, Problem
from planner.queueing import reserves
from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from planner.usable import usable_share
from python_backend.simulator.capacity import Workload, find_capacity
from tests.fixtures.made_problems import MadeSize, made_problem

PROBLEM = made_problem(MadeSize(gpus=16, classes=2, models=3, blocks=5, max_slices=2), seed=5)
LOSS = 0.01


def reserved(problem: Problem, least_gives: float = 0.0, loss_share: float | None = LOSS) -> Problem:
    options = replace(
        problem.options,
        slo_margin=0.0,
        batch_build_factor=0.0,
        loss_share=loss_share,
        least_gives=least_gives,
    )
    return replace(problem, options=options)


def column(latency_us: float, batch: int, rate_rps: float) -> Columns:
    """One pipeline of one stage."""
    return Columns(
        gpu=np.array([[0]]),
        slices=np.array([[1]]),
        start=np.array([[0]]),
        end=np.array([[1]]),
        batch=np.array([[batch]]),
        rate_rps=np.array([[rate_rps]]),
        latency_us=np.array([float(latency_us)]),
        waiting_us=np.array([0.0]),
    )


def usable_rps(model: ModelPlan) -> float:
    frames = sum(
        pipeline.throughput_rps * (model.slo_us - pipeline.latency_us) / 1e6
        - (pipeline.stages[0].batch_size - 1) * pipeline.throughput_rps / model.throughput_rps
        for pipeline in model.pipelines
    )
    return model.throughput_rps * usable_share(max(0.0, frames), LOSS)


def shares(made: Plan, problem: Problem) -> list[float]:
    return [usable_rps(made.model(demand.model)) / (demand.weight or 1.0) for demand in problem.demands]


def one_pool(workers: int, latency_us: int, slo_us: int, batch: int = 1) -> ServedModel:
    """A batch takes latency_us, and smaller ones less."""
    pool = tuple(ServedWorker(name=f"w{i}", server="s", uplink="u", downlink="d") for i in range(workers))
    latencies = tuple(round(latency_us * (0.3 + 0.7 * size / batch)) for size in range(1, batch + 1))
    stage = ServedStage(gpu="G", slices_per_gpu=1, latency_us=latencies, workers=pool)
    pipeline = ServedPipeline(batch_size=batch, stages=(stage,), transfer_us=())
    rate = workers * batch * 1e6 / latency_us
    return ServedModel(model="m", slo_us=slo_us, planned_rps=rate, pipelines=(pipeline,))


@pytest.mark.parametrize(
    ("arrivals", "dispersion", "slack_us"),
    [
        ("poisson", 1.0, 10_000),
        ("poisson", 1.0, 24_000),
        ("poisson", 1.0, 60_000),
        ("gamma:cv=2", 4.0, 24_000),
        ("gamma:cv=4", 16.0, 120_000),
    ],
)
def test_simulated_capacity_is_what_the_formula_says(arrivals: str, dispersion: float, slack_us: int) -> None:
    served = one_pool(workers=20, latency_us=40_000, slo_us=40_000 + slack_us)
    expected = usable_share(served.planned_rps * slack_us / 1e6, LOSS, dispersion)
    rates = [served.planned_rps * step / 200 for step in range(80, 210)]
    workload = Workload(arrivals, seconds=40.0, seeds=(1, 2))
    found = find_capacity(served, "adaptive", rates, workload, served.planned_rps * expected)
    assert found.load_rps / served.planned_rps == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("workers", "batch", "latency_us", "slack_us"),
    [(20, 2, 80_000, 40_000), (20, 2, 80_000, 80_000), (10, 4, 80_000, 60_000), (20, 4, 160_000, 60_000)],
)
def test_of_a_burst_workers_take_a_batch_each_at_once(
    workers: int, batch: int, latency_us: int, slack_us: int
) -> None:
    served = one_pool(workers, latency_us, latency_us + slack_us, batch)
    one = column(latency_us, batch, 1e6 * batch / latency_us)

    def expected(batch_room: float) -> float:
        found = reserves(served.slo_us, served.planned_rps, LOSS, 16.0)
        rows = tuple(replace(reserve, batch_room=batch_room) for reserve in found)
        return WantedModel("m", one, 1.0, rows).usable_rps({0: served.planned_rps})

    rates = [served.planned_rps * step / 100 for step in range(10, 100)]
    workload = Workload("gamma:cv=4", seconds=40.0, seeds=(1, 2))
    found = find_capacity(served, "adaptive", rates, workload, expected(0.3)).load_rps
    assert expected(0.0) < found
    assert abs(expected(0.3) - found) < abs(expected(0.0) - found)
    assert expected(0.3) == pytest.approx(found, abs=0.1 * served.planned_rps)


def test_bursts_need_room_in_proportion() -> None:
    shares = [usable_share(30.0, LOSS, dispersion) for dispersion in (0.25, 1.0, 4.0, 16.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.5 < 0.98 < shares[0]


def test_more_room_is_worth_less_and_less() -> None:
    values = [usable_share(float(frames), LOSS) for frames in range(1, 60)]
    gains = [after - before for before, after in itertools.pairwise(values)]
    assert all(gain >= -1e-12 for gain in gains)
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(gains))
    assert 0.4 < values[0] < values[-1] == pytest.approx(1.0, abs=1e-9)
    assert usable_share(20.0, 0.05) > usable_share(20.0, 0.01) > usable_share(20.0, 0.001)


@given(frames=st.floats(8.0, 80.0), rate_rps=st.floats(50.0, 5_000.0))
def test_tangents_lie_above_the_curve_and_near_it(frames: float, rate_rps: float) -> None:
    slack_us = frames / rate_rps * 1e6
    columns = column(latency_us=1_000.0, batch=1, rate_rps=10.0)
    wanted = WantedModel("m", columns, 1.0, reserves(round(slack_us) + 1_000, rate_rps, LOSS))
    share = wanted.usable_rps({0: rate_rps}) / rate_rps
    exact = usable_share(frames, LOSS)
    assert exact - 2e-3 <= share <= exact + 0.02


@pytest.mark.parametrize("mode", ["fast", "proven"])
def test_a_plan_for_arrivals_serves_more_of_them_than_one_for_throughput(mode: str) -> None:
    plain = shares(plan(reserved(PROBLEM, loss_share=None), mode=mode), PROBLEM)
    made = plan(reserved(PROBLEM), mode=mode)
    assert min(shares(made, PROBLEM)) > min(plain)
    assert made.objective <= made.upper_bound


def test_the_least_served_gives_no_more_than_it_may() -> None:
    fair = shares(plan(reserved(PROBLEM)), PROBLEM)
    giving = shares(plan(reserved(PROBLEM, least_gives=0.1)), PROBLEM)
    # Tangents, and the estimate of the rate in them, are near the curve but not on it.
    assert min(giving) >= 0.9 * min(fair) * 0.98
    assert sum(giving) >= sum(fair) * 0.98


def test_cheapest_plan_for_arrivals_has_room_for_them() -> None:
    rates = [0.5 * share for share in shares(plan(reserved(PROBLEM)), PROBLEM)]
    demands = tuple(
        replace(demand, weight=None, rate_rps=rate * (demand.weight or 1.0))
        for demand, rate in zip(PROBLEM.demands, rates, strict=True)
    )
    problem = reserved(replace(PROBLEM, demands=demands))
    problem = replace(problem, options=replace(problem.options, objective=Objective.MIN_COST))
    made = plan(problem)
    for demand in demands:
        assert usable_rps(made.model(demand.model)) >= 0.98 * (demand.rate_rps or 0.0)
