"""Promises of load after a loss, by simulation; and the benchmark that serves every loss."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks.paper.made import made_setting, made_settings
from benchmarks.survive import Row, figures, table
from planner.losses import losses_of
from planner.pipelines import enumerate_columns
from planner.problem import wanted_of
from planner.serving_build import served_model
from ppipe.plan_view import plan_table
from ppipe.simulation import survival
from ppipe.simulation.judging import Judge
from ppipe.simulation.survival import remaining, surviving_plan
from python_backend.simulator.capacity import Workload
from python_backend.simulator.report import simulate
from tests.fixtures.made_problems import MadeSize, made_problem


@pytest.mark.parametrize("seed", [3])
def test_the_promise_is_served_after_every_loss(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survival, "MARGINS", (0.05,))
    monkeypatch.setattr(survival, "SECONDS", 3.0)
    monkeypatch.setattr(survival, "SCENARIOS", 4)
    problem = made_problem(MadeSize(gpus=16, classes=2, models=2, blocks=4, max_slices=2), seed=seed)
    problem = replace(problem, options=replace(problem.options, survive_servers=1))
    planned, made = surviving_plan(problem, Judge(), processes=1)
    assert made.survival is not None
    left = remaining(made, planned)
    for demand in problem.demands:
        mine = left[demand.model]
        assert sum(len(one.losses) for one in mine) == len(losses_of(problem))
        assert len(mine) < len(losses_of(problem))
        rate = made.survival.promised * wanted_of(demand, problem.options)
        for one in mine:
            served = served_model(one.whole, planned, demand.model)
            workload = Workload(seconds=6.0, seeds=(7,))
            assert simulate(served, rate, workload=workload).attainment > 0.985
    console = Console(width=80, record=True, file=None)
    with console.capture() as shown:
        console.print(plan_table(made))
    assert made.survival.binding in shown.get()
    assert "given up" in shown.get()


def test_figures_of_the_benchmark_are_the_worst_of_its_rows() -> None:
    row = Row("a", 45, 11, 90.0, 99.0, 0.1, 100.0, "l4-0", 0.995, 20.0)
    rows = [row, replace(row, problem="b", losses=100, gap=0.2, attainment_min=0.991, seconds=30.0)]
    assert figures(rows) == {
        "problems": 2,
        "losses_simulated": 145,
        "attainment_min": 0.991,
        "gap_max": 0.2,
        "seconds_max": 30.0,
    }
    assert table(rows).row_count == 2


def test_made_problems_are_like_the_papers_and_the_same_every_time() -> None:
    first, again = list(made_settings(5, 2)), list(made_settings(5, 2))
    assert first == again
    assert first[0] != first[1]
    assert made_setting(random.Random("5/0")) == first[0]
    for problem in first:
        assert [problem.cluster.gpu_count(gpu) for gpu in ("fast", "slow")] == [25, 75]
        for demand in problem.demands:
            profile = problem.profile.model(demand.model)
            assert len(enumerate_columns(profile, problem.cluster, demand, problem.options)) > 100
