"""GPU classes without GPUs: what one would really add. The relaxation has no pipelines on such a class, so
its price there is no price.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.explain import with_more
from planner.plan import Plan
from planner.problem import Objective, Problem


def absent_classes(problem: Problem) -> tuple[str, ...]:
    """Names of the classes that no server has, in the cluster's order."""
    cluster = problem.cluster
    return tuple(one.name for one in cluster.gpu_classes if cluster.gpu_count(one.name) == 0)


def with_prices_of_absent(made: Plan, problem: Problem, plan: Callable[[Problem], Plan]) -> Plan:
    """The plan with the prices of absent classes: what the objective gains by one server with one GPU more.

    `plan` plans again. Where the objective is cost, a gain is what is saved. Never below 0: more GPUs cannot
    make a plan worse, and a search that was cut short is no evidence.
    """
    sign = 1.0 if problem.options.objective is Objective.MAX_RATE else -1.0
    prices = dict(made.gpu_price)
    for gpu in absent_classes(problem):
        if prices:
            prices[gpu] = max(0.0, sign * (plan(with_more(problem, gpu, 1)).objective - made.objective))
    return replace(made, gpu_price=prices)
