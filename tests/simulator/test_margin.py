"""Margin by simulation: the best of what was tried wins, on seeds of its own, the same every time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner.expectation import Expectation
from planner.explain import Infeasible
from planner.planning import plan
from planner.problem import Objective, Problem
from ppipe.simulation import margin, rungs
from ppipe.simulation.margin import auto_margin
from ppipe.simulation.margined import with_margins
from ppipe.simulation.rungs import BATCH_ROOMS, LADDER, Rung, ladder_of
from ppipe.simulation.view import margin_table, plan_capacities, report_table, simulate_plan
from python_backend.simulator.capacity import Workload
from tests.fixtures.made_problems import MadeSize, made_problem

PROBLEM = made_problem(MadeSize(gpus=10, classes=2, models=2, blocks=5, max_slices=2), seed=3)


@pytest.fixture(autouse=True)
def short_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(margin, "SECONDS", 2.0)
    monkeypatch.setattr(margin, "PROMISED_IN", 12)
    monkeypatch.setattr(margin, "PROMISED_SECONDS", 2.0)
    monkeypatch.setattr(rungs, "FIRST", ((1, 6), (1, 4), (0, 5)))
    monkeypatch.setattr(rungs, "FIRST_IF_WILD", ((1, 5), (1, 8), (1, 10)))
    monkeypatch.setattr(rungs, "MOST_CANDIDATES", 6)
    monkeypatch.setattr(rungs, "MOST_IF_BURSTY", 5)
    monkeypatch.setattr(margin, "FINALISTS", 1)


def test_the_best_candidate_wins_and_the_search_repeats() -> None:
    first, again = auto_margin(PROBLEM, processes=1), auto_margin(PROBLEM, processes=1)
    assert first.best.score == max(candidate.score for candidate in first.tried)
    assert first.best in first.tried
    assert first.tried == again.tried
    assert first.plan == again.plan
    assert len(first.tried) <= 7
    assert set(first.best.margins.values()) <= set(LADDER)
    assert {model.model: model.slo_margin for model in first.plan.models} == first.best.margins
    assert first.plan.placement is not None
    common = [candidate for candidate in first.tried if len(set(candidate.margins.values())) == 1]
    assert {candidate.margins["net00"] for candidate in common} >= {0.0, 0.03, 0.06}
    assert margin_table(first).row_count == len(first.tried)


def test_a_problem_that_no_margin_can_save_is_explained_by_the_planner() -> None:
    hopeless = replace(PROBLEM, demands=tuple(replace(demand, slo_us=1) for demand in PROBLEM.demands))
    with pytest.raises(Infeasible):
        auto_margin(hopeless, processes=1)


def test_a_guarantee_costs_and_holds_and_the_search_tells_how_far_it_is() -> None:
    expect = Expectation(jitter=0.08, slowdown=0.1, arrivals="gamma:cv=2")
    problem = replace(PROBLEM, options=replace(PROBLEM.options, expect=expect))
    told: list[tuple[str, int, int | None]] = []
    found = auto_margin(problem, processes=1, progress=lambda *each: told.append(each))
    promised = [(done, total) for text, done, total in told if text == "simulating what is promised"]
    assert promised == [(done, len(promised) - 1) for done in range(len(promised))]
    assert {text.partition(" ")[0] for text, _, _ in told} == {"planning", "simulating"}
    assert found.problem.options.dispersion == 4.0
    for model in found.plan.models:
        assert (promise := model.promise) is not None
        assert 0 < promise.guaranteed_rps < promise.nominal_rps <= promise.unguarded_rps
        assert 0 < promise.given_up < 1


def test_margins_go_to_their_models() -> None:
    changed = with_margins(PROBLEM, [0.1, 0.2], 0.02)
    assert [demand.slo_margin for demand in changed.demands] == [0.1, 0.2]
    assert changed.options.loss_share == 0.02


def expecting(**what: Any) -> Problem:
    return replace(PROBLEM, options=replace(PROBLEM.options, expect=Expectation(**what)))


def test_only_for_bursts_batches_count_as_room() -> None:
    rooms = {Rung(0.0, room) for room in BATCH_ROOMS}
    for arrivals, bursty in (
        ("poisson", False),
        ("gamma:cv=1", False),
        ("gamma:cv=2", True),
        ("gamma:cv=4", True),
    ):
        for slowdown in (0.0, 0.15):
            ladder = ladder_of(expecting(jitter=0.0, slowdown=slowdown, arrivals=arrivals))
            first = {ladder.rungs[step] for _, step in ladder.first}
            assert (rooms <= set(ladder.rungs), bool(rooms & first)) == (bursty, bursty)
            assert any(rung.margin >= 0.25 for rung in first) == (slowdown > 0)
            count = len(ladder.rungs)
            near = list(ladder.neighbours((1, (0, count - 1), "fast")))
            assert {steps for _, steps, _ in near} == {(0, count - 1), (1, count - 1), (0, count - 2)}


def test_a_search_for_bursts_chooses_how_much_of_a_batch_is_room() -> None:
    bursty = expecting(jitter=0.0, slowdown=0.0, arrivals="gamma:cv=4")
    found = auto_margin(bursty, processes=1, promise=False)
    assert {room for candidate in found.tried for room in candidate.batch_rooms.values()} >= {0.0, 0.3, 0.6}
    assert {demand.model: demand.batch_room for demand in found.problem.demands} == found.best.batch_rooms
    assert found.best.score >= max(
        candidate.score for candidate in found.tried if not any(candidate.batch_rooms.values())
    )


def test_plans_are_simulated_model_by_model() -> None:
    plan = auto_margin(PROBLEM, processes=1).plan
    workload = Workload(seconds=2.0, seeds=(1,))
    reports = simulate_plan(plan, PROBLEM, load_factor=0.5, workload=workload, links="placed")
    assert [report.model for report in reports] == [model.model for model in plan.models]
    assert all(report.attainment > 0.9 for report in reports)
    assert report_table(reports).row_count > 5
    found = plan_capacities(plan, PROBLEM, workload=workload)
    assert all(found[model.model].load_rps > 0.3 * model.throughput_rps for model in plan.models)
    with pytest.raises(ValueError, match="load factor or a rate"):
        simulate_plan(plan, PROBLEM)


def test_of_plans_that_guarantee_what_min_cost_wants_the_cheaper_one_is_best() -> None:
    options = replace(PROBLEM.options, objective=Objective.MIN_COST)
    demands = tuple(replace(demand, rate_rps=100.0) for demand in PROBLEM.demands)
    problem = replace(PROBLEM, options=options, demands=demands)
    made = plan(PROBLEM, mode="fast")

    def score(cost: float, *served: float) -> float:
        by_model = dict(zip((demand.model for demand in demands), served, strict=True))
        return margin._score(replace(made, objective=cost), problem, by_model)

    assert (
        score(8.0, 100.0, 130.0) > score(9.0, 200.0, 200.0) > score(5.0, 98.0, 200.0) > score(5.0, 90.0, 90.0)
    )
