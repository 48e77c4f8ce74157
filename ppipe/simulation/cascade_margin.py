"""The margin of a problem with cascades: the plan of each margin is simulated, and the best one kept.

Max-rate: the plan that serves most, as the least of capacity over weight among cascades and other models.
Min-cost: the cheapest plan of which every cascade and model serves its rate; if none does, the one that comes
nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from planner.explain import Infeasible
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Objective, Problem, wanted_of
from planner.serving_build import Links
from ppipe.simulation.cascades import cascade_capacities, without_cascades
from ppipe.simulation.telling import Progress, silent
from ppipe.simulation.view import plan_capacities
from python_backend.simulator.capacity import Workload

MARGINS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
_SECONDS, _SEEDS = 10.0, (1, 2)


@dataclass(frozen=True)
class TriedMargin:
    """One margin, its plan, and what that serves at 99 %, by name of cascade or model. score: the least of
    served over wanted.
    """

    margin: float
    plan: Plan
    served_rps: Mapping[str, float]
    score: float


def margin_of_cascades(
    problem: Problem, links: Links, progress: Progress = silent
) -> tuple[Problem, Plan, tuple[TriedMargin, ...]]:
    """The problem with the best margin, its proven plan, and all that were tried. Raises Infeasible."""
    tried = tuple(_tried(problem, links, progress))
    if not tried:
        raise Infeasible(f"cascades: no plan at margins of {MARGINS[0]:g} to {MARGINS[-1]:g}")
    best = _best(problem, tried)
    chosen = _with_margin(problem, best.margin)
    return chosen, plan(chosen), tried


def _tried(problem: Problem, links: Links, progress: Progress) -> Iterator[TriedMargin]:
    for done, margin in enumerate(MARGINS):
        progress("planning and simulating margins", done, len(MARGINS))
        one = _with_margin(problem, margin)
        try:
            made = plan(one, mode="fast")
        except Infeasible:
            continue
        workload = Workload(arrivals=problem.options.expect.arrivals, seconds=_SECONDS, seeds=_SEEDS)
        served = cascade_capacities(made, one, workload, links)
        others = plan_capacities(without_cascades(made, one), one, workload=workload, links=links)
        served |= {name: capacity.load_rps for name, capacity in others.items()}
        wanted = _wanted(problem)
        yield TriedMargin(margin, made, served, min(rps / wanted[name] for name, rps in served.items()))


def _with_margin(problem: Problem, margin: float) -> Problem:
    demands = tuple(replace(demand, slo_margin=None) for demand in problem.demands)
    return replace(problem, demands=demands, options=replace(problem.options, slo_margin=margin))


def _wanted(problem: Problem) -> dict[str, float]:
    """Weight or rate, by name of cascade or model."""
    inner = {member.model for cascade in problem.cascades for member in cascade.members}
    wanted = {
        demand.model: wanted_of(demand, problem.options)
        for demand in problem.demands
        if demand.model not in inner
    }
    for cascade in problem.cascades:
        rate, weight = cascade.rate_rps, cascade.weight
        by_weight = problem.options.objective is Objective.MAX_RATE and weight is not None
        wanted[cascade.name] = (weight if by_weight else rate) or 1.0
    return wanted


def _best(problem: Problem, tried: Sequence[TriedMargin]) -> TriedMargin:
    if problem.options.objective is Objective.MIN_COST and (
        enough := [one for one in tried if one.score >= 1.0]
    ):
        return min(enough, key=lambda one: one.plan.objective)
    return max(tried, key=lambda one: one.score)


def cascade_margin_table(tried: Sequence[TriedMargin], chosen: float) -> Table:
    """What each margin gave; the chosen one is marked."""
    table = Table(title="margin by simulation: served at 99 %, frames/s")
    names = list(tried[0].served_rps)
    for name in ("margin", *names, "objective", ""):
        table.add_column(name, justify="right")
    for one in tried:
        served = (f"{one.served_rps[name]:.1f}" for name in names)
        mark = "<-" if one.margin == chosen else ""
        table.add_row(f"{one.margin:g}", *served, f"{one.plan.objective:.2f}", mark)
    return table
