"""Betters a plan of many models: a few models at a time are planned anew on the GPUs that the others leave.

Whole GPUs cost a large plan about 1 % through idle parts of pools. One MILP over all models cannot sort that
out, but many small ones can: each takes the worst served model and some others, and may only better the worst
of them (max-rate) or make them cheaper (min-cost). What one group gains, later groups pass on.

Rules: groups are drawn by a fixed seed; rounds are counted, not timed; a plan never gets worse.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.formulation import MilpProblem, PlanMilp, Use
from planner.packing import gpus_needed
from planner.prices import WantedModel
from planner.problem import Objective
from planner.solver import Limits

GROUP = 4
LIMITS = Limits(relative_gap=5e-4, nodes=20, restarts=False)
GAIN = 1e-7
Uses = tuple[Use, ...]


@dataclass(frozen=True)
class Improved:
    """The bettered plan, and the nodes that it took."""

    uses: tuple[Uses, ...]
    nodes: int


def improve(problem: MilpProblem, uses: Sequence[Uses], rounds: int, gap: float) -> Improved:
    """At most `rounds` rounds, fewer once the plan is within `gap` of the problem's bound."""
    current = list(uses)
    rng = random.Random(0)
    waiting: list[int] = []
    nodes = 0
    for _ in range(rounds):
        if _near_bound(problem, current, gap):
            break
        if len(waiting) < GROUP:
            waiting = list(range(len(current)))
            rng.shuffle(waiting)
        group = _group(problem, current, waiting)
        outcome = PlanMilp(_sub_problem(problem, current, group)).solve(
            LIMITS, _start(problem, current, group)
        )
        nodes += outcome.nodes
        if outcome.uses:
            new = dict(zip(group, outcome.uses, strict=True))
            if _better(problem, current, new):
                current = [new.get(m, mine) for m, mine in enumerate(current)]
    return Improved(tuple(current), nodes)


def served_rps(one: WantedModel, uses: Sequence[Use]) -> float:
    """Usable frames/s of a model: per pipeline the least of its pools."""
    rates = one.columns.rate_rps
    return one.usable_rps(
        {use.row: min(n * float(rates[use.row, i]) for i, n in enumerate(use.workers)) for use in uses}
    )


def gpus_taken(one: WantedModel, uses: Sequence[Use], classes: int) -> list[int]:
    """Whole GPUs per class that a model's pipelines take."""
    places: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for use in uses:
        for stage, count in enumerate(use.workers):
            place = (stage, int(one.columns.gpu[use.row, stage]))
            places.setdefault(place, []).append((int(one.columns.slices[use.row, stage]), count))
    taken = [0] * classes
    for (_, g), pools in places.items():
        taken[g] += gpus_needed(pools)
    return taken


def objective_of(problem: MilpProblem, uses: Sequence[Sequence[Use]]) -> float:
    """From whole workers: the least of served / wanted, or the cost of the GPUs."""
    pairs = list(zip(problem.wanted, uses, strict=True))
    if problem.objective is Objective.MAX_RATE:
        return min(served_rps(one, mine) / one.rate for one, mine in pairs)
    return sum(_cost(problem, one, mine) for one, mine in pairs)


def _cost(problem: MilpProblem, one: WantedModel, uses: Sequence[Use]) -> float:
    taken = gpus_taken(one, uses, len(problem.gpu_counts))
    return sum(cost * count for cost, count in zip(problem.gpu_cost, taken, strict=True))


def _factor(problem: MilpProblem, uses: Sequence[Uses], m: int) -> float:
    return served_rps(problem.wanted[m], uses[m]) / problem.wanted[m].rate


def _near_bound(problem: MilpProblem, uses: Sequence[Uses], gap: float) -> bool:
    objective = objective_of(problem, uses)
    return abs(problem.bound - objective) <= gap * abs(objective)


def _group(problem: MilpProblem, uses: Sequence[Uses], waiting: list[int]) -> list[int]:
    """The next models in line, the worst served one among them."""
    group = [waiting.pop() for _ in range(min(GROUP, len(waiting)))]
    if problem.objective is Objective.MAX_RATE:
        worst = min(range(len(uses)), key=lambda m: _factor(problem, uses, m))
        if worst not in group:
            group[0] = worst
    return sorted(group)


def _sub_problem(problem: MilpProblem, uses: Sequence[Uses], group: Sequence[int]) -> MilpProblem:
    """The group alone, on what the other models leave."""
    left = list(problem.gpu_counts)
    for m, mine in enumerate(uses):
        if m not in group:
            for g, count in enumerate(gpus_taken(problem.wanted[m], mine, len(left))):
                left[g] -= count
    # The bound on z keeps to the entry's rows, which are over all models.
    wanted = [problem.wanted[m] for m in group]
    return replace(problem, wanted=wanted, gpu_counts=left, entry=())


def _start(problem: MilpProblem, uses: Sequence[Uses], group: Sequence[int]) -> list[Uses]:
    """The group's present plan, every model held to what the worst of them, or its wanted rate, needs."""
    wanted = 1.0
    if problem.objective is Objective.MAX_RATE:
        wanted = min(_factor(problem, uses, m) for m in group)
    start = []
    for m in group:
        factor = _factor(problem, uses, m)
        part = wanted / factor if factor else 0.0
        rates = problem.wanted[m].columns.rate_rps
        start.append(
            tuple(
                replace(
                    use, rate_rps=part * min(n * float(rates[use.row, i]) for i, n in enumerate(use.workers))
                )
                for use in uses[m]
            )
        )
    return start


def _better(problem: MilpProblem, uses: Sequence[Uses], new: dict[int, Uses]) -> bool:
    if problem.objective is Objective.MAX_RATE:
        before = min(_factor(problem, uses, m) for m in new)
        after = min(served_rps(problem.wanted[m], mine) / problem.wanted[m].rate for m, mine in new.items())
        return after > before * (1 + GAIN)
    saved = sum(
        _cost(problem, problem.wanted[m], uses[m]) - _cost(problem, problem.wanted[m], mine)
        for m, mine in new.items()
    )
    return saved > GAIN
