"""Plans whose margins simulation finds, and for which problems that is what is done unasked.

Rules
- A margin that the deployment states is an answer, and nobody searches for another.
- Unasked, only what takes a minute on two cores is searched: not cascades, which are planned once for each
  division of their SLO, not fleets of many models or GPUs, and nothing where the simulator is not compiled,
  which takes six times as long.
- The plan remembers the problem as it was asked (Plan.asked_hash): the one that it solves has other margins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from planner.deployment import SEARCHED, Deployment
from planner.losses import must_survive
from planner.plan import Plan
from planner.problem import Objective, Problem, wanted_of
from ppipe.simulation.cascade_margin import best_of_cascades, cascade_margin_table
from ppipe.simulation.guaranteed import guaranteed_shares, search_guaranteed
from ppipe.simulation.judging import Judge
from ppipe.simulation.margin import auto_margin
from ppipe.simulation.survival import surviving_plan
from ppipe.simulation.telling import Progress, silent
from ppipe.simulation.view import margin_table
from python_backend.compiled import IS_COMPILED

MOST_MODELS, MOST_GPUS = 6, 120
"""Of a problem whose margins are searched unasked."""


@dataclass(frozen=True)
class Searched:
    """The problem with the margins that were found, its plan, and what was tried on the way."""

    problem: Problem
    plan: Plan
    tried: Table | None
    short: tuple[str, ...] = ()
    """A line for each model of which min-cost's plan guarantees less than was asked for."""


def search_margins(problem: Problem, progress: Progress = silent) -> Searched:
    """The plan that guarantees most; of a problem that must survive losses, the one that promises most; of
    one with cascades, the one that serves most. Raises what the planner and the search raise.
    """
    if problem.cascades:
        chosen, made, tried = best_of_cascades(problem, links="placed", progress=progress)
        return Searched(chosen, made, cascade_margin_table(tried, made))
    if must_survive(problem):
        chosen, made = surviving_plan(problem, Judge(links="placed"), progress=progress)
        return Searched(chosen, made, None)
    found = search_guaranteed(problem, lambda asked: auto_margin(asked, links="placed", progress=progress))
    return Searched(found.problem, found.plan, margin_table(found), tuple(short_of(found.plan, problem)))


def short_of(made: Plan, problem: Problem) -> Iterator[str]:
    """Where min-cost's plan guarantees less than the rate that was asked for, the user must hear it."""
    if problem.options.objective is not Objective.MIN_COST:
        return
    shares = guaranteed_shares(made, problem)
    for demand in problem.demands:
        share, wanted_rps = shares[demand.model], wanted_of(demand, problem.options)
        if share < 1:
            yield (
                f"{demand.model}: this plan guarantees {share * wanted_rps:.1f} frames/s, and "
                f"{wanted_rps:g} are wanted; higher rates were planned for too, and no plan that was tried "
                "guarantees all that is wanted"
            )


def why_not_searched(deployment: Deployment, problem: Problem, slowly: bool = False) -> str:
    """Why the margins of this problem are not searched unasked; '' where they are. slowly: in plain Python
    they may be.
    """
    stated = deployment.stated_margin
    if stated == SEARCHED:
        return ""
    gpus = sum(server.gpu_count for server in problem.cluster.servers)
    reasons = (
        (stated is not None, f"the deployment states slo_margin {stated}"),
        (bool(problem.cascades), "a plan with cascades takes long"),
        (len(problem.demands) > MOST_MODELS, f"more than {MOST_MODELS} models take long"),
        (gpus > MOST_GPUS, f"more than {MOST_GPUS} GPUs take long"),
        (
            not IS_COMPILED and not slowly,
            "the simulator runs as plain Python here, which takes long (scripts/setup compiles it)",
        ),
    )
    return next((why for holds, why in reasons if holds), "")
