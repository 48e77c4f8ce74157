"""Many models: allotments and the configuration LP against brute force, and plans of made fleets."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.allotment_grid import Grid
from planner.allotment_lp import AllotmentLp
from planner.allotment_search import share_out
from planner.allotments import Allotments
from planner.explain import Infeasible
from planner.feasibility import violations
from planner.formulation import MilpProblem
from planner.improve import objective_of
from planner.pipelines import enumerate_columns
from planner.planning import plan
from planner.prices import RatesTooHigh, WantedModel, relax
from planner.problem import Demand, Objective, Problem, weight_of
from planner.search import gpu_counts_of
from tests.fixtures.made_problems import MadeSize, made_problem
from tests.planner.test_against_brute_force import best_by_gpus, brute_force, problems, told_apart

SHARES = st.sampled_from([0.2, 0.6, 0.95, 1.3])
MOST = st.sampled_from([1, 2, 20])
"""GPUs of the allotments that are listed one by one: of the few here, some or all."""


def wanted_of(problem: Problem, demand: Demand) -> WantedModel:
    profile = problem.profile.model(demand.model)
    columns = enumerate_columns(profile, problem.cluster, demand, problem.options)
    rate = demand.rate_rps if problem.options.objective is Objective.MIN_COST else weight_of(demand)
    assert rate is not None
    return WantedModel(demand.model, columns, rate)


def question_of(problem: Problem) -> MilpProblem | None:
    """The problem as it is searched; None where a model has no pipeline or the relaxation no plan."""
    problem = told_apart(problem)
    wanted = [wanted_of(problem, demand) for demand in problem.demands]
    if not all(len(one.columns) for one in wanted):
        return None
    counts = gpu_counts_of(problem.cluster)
    cost = [problem.options.gpu_cost[one.name[0]] for one in problem.cluster.gpu_classes]
    try:
        bound = relax(counts, wanted, problem.options.objective, cost).bound
    except RatesTooHigh:
        return None
    return MilpProblem(wanted, counts, problem.options.objective, bound, cost)


@given(problems(), st.data())
@settings(max_examples=30)
def test_what_is_known_of_an_allotment_holds_before_and_after_it_is_settled(
    problem: Problem, data: st.DataObject
) -> None:
    problem, demand = told_apart(problem), problem.demands[0]
    wanted = wanted_of(problem, demand)
    if not len(wanted.columns):
        return
    one = Allotments(wanted, Grid.of(gpu_counts_of(problem.cluster)))
    assert one.grid.complete
    exact = best_by_gpus(problem, demand)
    most = [
        max((rate for used, rate in exact.items() if (np.array(used) <= gpus).all()), default=0.0)
        for gpus in one.grid.gpus
    ]
    for _ in range(4):
        row = data.draw(st.integers(0, len(most) - 1))
        asked = data.draw(st.sampled_from([0.5, 0.99, 1.01, 1.5])) * max(most[row], 1.0)
        one.settle(row, asked)
        assert one.serves(row, asked) == (most[row] >= asked)
        assert (one.lower <= np.array(most) * (1 + 1e-6)).all()
        assert (one.upper >= np.array(most) * (1 - 1e-6)).all()


@given(problems(), MOST)
@settings(max_examples=40)
def test_the_largest_factor_is_what_brute_force_says(problem: Problem, most: int) -> None:
    best = brute_force(problem)
    question = question_of(problem)
    if question is None:
        assert best == 0
        return
    shared = share_out(question, 1e-4, Grid.of(question.gpu_counts, most))
    assert shared.impossible == (best == 0)
    if best == 0:
        return
    own = replace(question, wanted=[one.wanted for one in shared.models])
    assert objective_of(own, shared.uses) == pytest.approx(best, rel=2e-4)
    assert shared.bound >= best * (1 - 1e-6)
    assert shared.bound <= best * (1 + 2e-4)


@given(problems(), SHARES, MOST)
@settings(max_examples=40)
def test_the_least_cost_is_what_brute_force_says(problem: Problem, share: float, listed: int) -> None:
    most = brute_force(problem)
    demands = tuple(
        replace(demand, rate_rps=max(1.0, share * most) * (demand.weight or 1), batch_build_rps=300.0)
        for demand in problem.demands
    )
    problem = replace(
        problem, demands=demands, options=replace(problem.options, objective=Objective.MIN_COST)
    )
    best = brute_force(problem)
    question = question_of(problem)
    if question is None:
        assert math.isinf(best)
        return
    shared = share_out(question, 1e-4, Grid.of(question.gpu_counts, listed))
    assert shared.impossible == math.isinf(best)
    if shared.impossible:
        return
    own = replace(question, wanted=[one.wanted for one in shared.models])
    assert objective_of(own, shared.uses) == pytest.approx(best)
    assert shared.bound == pytest.approx(best, rel=1e-3)


@given(problems(), st.lists(st.floats(0.0, 5.0), min_size=4, max_size=4))
@settings(max_examples=30)
def test_any_prices_bound_the_factor(problem: Problem, prices: list[float]) -> None:
    """sum C(pi) <= pi N at a factor that a plan serves, whatever pi is, with almost none listed."""
    best = brute_force(problem)
    question = question_of(problem)
    if question is None or best == 0:
        return
    models = [Allotments(one, Grid.of(question.gpu_counts, 1)) for one in question.wanted]
    lp = AllotmentLp(models, [one.wanted.rate * best * (1 - 1e-6) for one in models], question.gpu_counts)
    prices = prices[: len(question.gpu_counts)]
    least = sum(min(pair) for pair in lp.least_prices(np.array(prices)))
    worth = sum(p * n for p, n in zip(prices, question.gpu_counts, strict=True))
    assert least <= worth * (1 + 1e-6)


@pytest.mark.parametrize(
    ("size", "seed"),
    [
        (MadeSize(gpus=20, classes=2, models=20), 0),
        (MadeSize(gpus=24, classes=4, models=20), 1),
        (MadeSize(gpus=18, classes=3, models=9, max_slices=2), 2),
    ],
)
def test_many_models_on_few_gpus_are_proven(size: MadeSize, seed: int) -> None:
    problem = made_problem(size, seed)
    made = plan(problem)
    assert made.gap <= 0.01
    assert violations(made, problem) == []


def test_many_classes_at_tight_slos_are_proven_too() -> None:
    """Most classes can only take a part of a network here, and some models need more GPUs than are listed."""
    problem = made_problem(MadeSize(gpus=20, classes=5, models=7, blocks=3, max_slices=1), seed=2)
    demands = tuple(replace(demand, slo_us=int(0.6 * demand.slo_us)) for demand in problem.demands)
    made = plan(replace(problem, demands=demands))
    assert made.gap <= 0.01


def test_too_few_gpus_names_who_takes_most_and_what_would_fit() -> None:
    problem = made_problem(MadeSize(gpus=8, classes=1, models=12, blocks=3), seed=1)
    with pytest.raises(Infeasible) as raised:
        plan(problem)
    text = str(raised.value)
    assert "12 models (net00, net01, net02, net03, net04 and 7 more) cannot all be served" in text
    assert "Most are taken by net00 (1 C0)" in text
    assert "At most 8 models can have GPUs, for example all but " in text
    assert "at least 4 more C0" in text


def test_what_would_fit_does_fit() -> None:
    problem = made_problem(MadeSize(gpus=8, classes=1, models=12, blocks=3), seed=1)
    fewer = replace(problem, demands=problem.demands[:8])
    assert violations(plan(fewer), fewer) == []


def test_rates_too_high_names_the_models_that_take_most() -> None:
    problem = made_problem(MadeSize(gpus=20, classes=2, models=8, blocks=4), seed=3)
    demands = tuple(
        replace(demand, rate_rps=2000.0 if number == 5 else 20.0)
        for number, demand in enumerate(problem.demands)
    )
    problem = replace(
        problem, demands=demands, options=replace(problem.options, objective=Objective.MIN_COST)
    )
    with pytest.raises(Infeasible, match=r"(?s)they take:\n  net05 \(2000 rps\).*all models but net05\n"):
        plan(problem)
