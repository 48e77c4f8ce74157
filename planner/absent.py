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


def with_prices_of_absent(made: Plan, problem: Problem, objective: Callable[[Problem], float]) -> Plan:
    """The plan with the prices of absent classes: what the objective gains by one server with one GPU more.

    `objective` plans again, or bounds what planning again would reach; it is asked without a GPU more too.
    Where the objective is cost, a gain is what is saved. Never below 0: more GPUs cannot make a plan worse,
    and a search that was cut short is no evidence.
    """
    absent = absent_classes(problem)
    if not absent or not made.gpu_price:
        return made
    sign = 1.0 if problem.options.objective is Objective.MAX_RATE else -1.0
    now = objective(problem)
    prices = {gpu: max(0.0, sign * (objective(with_more(problem, gpu, 1)) - now)) for gpu in absent}
    return replace(made, gpu_price={**made.gpu_price, **prices})
