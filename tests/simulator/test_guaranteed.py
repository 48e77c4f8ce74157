"""Min-cost: more is planned for until what was asked for is guaranteed; the plan answers what was asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner import serial
from planner.expectation import Expectation
from planner.feasibility import check
from planner.planning import plan
from planner.problem import Objective, Problem
from ppipe.simulation import margin, rungs
from ppipe.simulation.guaranteed import ROUNDS, guaranteed_shares, search_guaranteed
from ppipe.simulation.margin import MarginSearch, auto_margin
from tests.fixtures.made_problems import MadeSize, made_problem

PROBLEM = made_problem(MadeSize(gpus=10, classes=2, models=2, blocks=5, max_slices=2), seed=3)


@pytest.fixture(autouse=True)
def short_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(margin, "SECONDS", 2.0)
    monkeypatch.setattr(margin, "PROMISED_IN", 20)
    monkeypatch.setattr(margin, "PROMISED_SECONDS", 2.0)
    monkeypatch.setattr(rungs, "FIRST", ((1, 6),))
    monkeypatch.setattr(rungs, "MOST_CANDIDATES", 1)
    monkeypatch.setattr(margin, "FINALISTS", 0)


def wanting(share: float) -> Problem:
    """So much of what the fleet can serve of each model at once."""
    most = plan(PROBLEM, mode="fast")
    options = replace(PROBLEM.options, objective=Objective.MIN_COST, expect=Expectation(jitter=0.05))
    demands = tuple(
        replace(demand, rate_rps=share * most.model(demand.model).throughput_rps)
        for demand in PROBLEM.demands
    )
    return replace(PROBLEM, demands=demands, options=options)


def searched(problem: Problem) -> tuple[MarginSearch, list[MarginSearch]]:
    """What is found, and each search on the way."""
    each: list[MarginSearch] = []

    def search(asked: Problem) -> MarginSearch:
        each.append(auto_margin(asked, processes=1))
        return each[-1]

    return search_guaranteed(problem, search), each


def test_what_is_asked_for_is_guaranteed_by_planning_for_more() -> None:
    problem = wanting(0.35)
    found, each = searched(problem)
    assert min(guaranteed_shares(each[0].plan, problem).values()) < 1, "or there was nothing to mend"
    assert min(guaranteed_shares(found.plan, problem).values()) >= 1
    assert len(each) <= ROUNDS
    assert [one.rate_rps for one in found.problem.demands] == [one.rate_rps for one in problem.demands]
    assert found.plan.problem_hash == serial.content_hash(found.problem)
    assert found.plan.upper_bound <= found.plan.objective
    check(found.plan, found.problem)


def test_the_best_guarantee_stays_where_the_fleet_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(margin, "SECONDS", 1.0)
    monkeypatch.setattr(margin, "PROMISED_IN", 8)
    problem = wanting(0.75)
    found, each = searched(problem)
    shares = [min(guaranteed_shares(one.plan, problem).values()) for one in each]
    assert max(shares) < 1, "or the fleet has enough"
    assert min(guaranteed_shares(found.plan, problem).values()) == max(shares)


def test_a_guarantee_that_holds_is_searched_once() -> None:
    found, each = searched(wanting(0.3))
    assert each == [found]
