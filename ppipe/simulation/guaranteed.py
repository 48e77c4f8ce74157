"""Min-cost plans that guarantee the rates that were asked for.

A search chooses between plans by few scenarios, and what is promised of the winner comes from many: that may
be less than was asked. Then more is planned for, by as much as was short, and searched again.

Rules
- ROUNDS searches in all. Of plans that guarantee all that was asked for the cheapest is taken, else the one
  that guarantees the largest share of it.
- The plan answers the problem that was asked: rates, cost's bound and hash are of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from planner import serial
from planner.explain import Infeasible
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Objective, Problem, wanted_of
from ppipe.simulation.margin import MarginSearch

ROUNDS = 3
BEYOND = 1.02
"""More than was short: loads are promised on a grid, and plans are of whole GPUs."""


def search_guaranteed(problem: Problem, search: Callable[[Problem], MarginSearch]) -> MarginSearch:
    """What `search` finds; for min-cost, of problems of higher rates too. Raises what `search` raises of the
    problem itself.
    """
    found = best = search(problem)
    if problem.options.objective is not Objective.MIN_COST:
        return found
    rates = {demand.model: wanted_of(demand, problem.options) for demand in problem.demands}
    for _ in range(ROUNDS - 1):
        shares = guaranteed_shares(found.plan, problem)
        if min(shares.values()) >= 1:
            break
        rates = {
            model: rate * (BEYOND / shares[model] if shares[model] < 1 else 1.0)
            for model, rate in rates.items()
        }
        try:
            found = search(_at(problem, rates))
        except Infeasible:
            break  # the fleet has no more to give
        best = max(best, found, key=lambda one: _worth(one.plan, problem))
    return _as_asked(best, problem)


def guaranteed_shares(made: Plan, problem: Problem) -> dict[str, float]:
    """By model, what is guaranteed of it over what is wanted; 1.0 where nothing was looked for."""
    found = {}
    for demand in problem.demands:
        promise = made.model(demand.model).promise
        wanted_rps = wanted_of(demand, problem.options)
        found[demand.model] = 1.0 if promise is None else promise.guaranteed_rps / wanted_rps
    return found


def _worth(made: Plan, problem: Problem) -> tuple[float, float]:
    return min(1.0, *guaranteed_shares(made, problem).values()), -made.objective


def _at(problem: Problem, rates: Mapping[str, float]) -> Problem:
    demands = tuple(replace(demand, rate_rps=rates[demand.model]) for demand in problem.demands)
    return replace(problem, demands=demands)


def _as_asked(found: MarginSearch, problem: Problem) -> MarginSearch:
    """The plan of a problem of higher rates as one of these: it serves them too, but may not be cheapest."""
    asked = _at(found.problem, {demand.model: demand.rate_rps or 0.0 for demand in problem.demands})
    if asked == found.problem:
        return found
    made, bound = found.plan, plan(asked, mode="fast").upper_bound
    bound = min(bound, made.objective)
    gap = (made.objective - bound) / made.objective if made.objective else 0.0
    made = replace(made, upper_bound=bound, gap=gap, problem_hash=serial.content_hash(asked))
    return replace(found, plan=made, problem=asked)
