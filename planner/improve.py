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

from planner.formulation import PlanModel, Question, Use
from planner.packing import gpus_needed
from planner.prices import Wanted
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


def improve(question: Question, uses: Sequence[Uses], rounds: int, gap: float) -> Improved:
    """At most `rounds` rounds, fewer once the plan is within `gap` of the question's bound."""
    current = list(uses)
    rng = random.Random(0)
    waiting: list[int] = []
    nodes = 0
    for _ in range(rounds):
        if _near_bound(question, current, gap):
            break
        if len(waiting) < GROUP:
            waiting = list(range(len(current)))
            rng.shuffle(waiting)
        group = _group(question, current, waiting)
        outcome = PlanModel(_sub_question(question, current, group)).solve(
            LIMITS, _start(question, current, group)
        )
        nodes += outcome.nodes
        if outcome.uses:
            new = dict(zip(group, outcome.uses, strict=True))
            if _better(question, current, new):
                current = [new.get(m, mine) for m, mine in enumerate(current)]
    return Improved(tuple(current), nodes)


def served_rps(one: Wanted, uses: Sequence[Use]) -> float:
    """Usable frames/s of a model: per pipeline the least of its pools."""
    rates = one.columns.rate_rps
    return one.usable_rps(
        {use.row: min(n * float(rates[use.row, i]) for i, n in enumerate(use.workers)) for use in uses}
    )


def gpus_taken(one: Wanted, uses: Sequence[Use], classes: int) -> list[int]:
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


def objective_of(question: Question, uses: Sequence[Sequence[Use]]) -> float:
    """From whole workers: the least of served / wanted, or the cost of the GPUs."""
    pairs = list(zip(question.wanted, uses, strict=True))
    if question.objective is Objective.MAX_RATE:
        return min(served_rps(one, mine) / one.rate for one, mine in pairs)
    return sum(_cost(question, one, mine) for one, mine in pairs)


def _cost(question: Question, one: Wanted, uses: Sequence[Use]) -> float:
    taken = gpus_taken(one, uses, len(question.gpu_counts))
    return sum(cost * count for cost, count in zip(question.gpu_cost, taken, strict=True))


def _factor(question: Question, uses: Sequence[Uses], m: int) -> float:
    return served_rps(question.wanted[m], uses[m]) / question.wanted[m].rate


def _near_bound(question: Question, uses: Sequence[Uses], gap: float) -> bool:
    objective = objective_of(question, uses)
    return abs(question.bound - objective) <= gap * abs(objective)


def _group(question: Question, uses: Sequence[Uses], waiting: list[int]) -> list[int]:
    """The next models in line, the worst served one among them."""
    group = [waiting.pop() for _ in range(min(GROUP, len(waiting)))]
    if question.objective is Objective.MAX_RATE:
        worst = min(range(len(uses)), key=lambda m: _factor(question, uses, m))
        if worst not in group:
            group[0] = worst
    return sorted(group)


def _sub_question(question: Question, uses: Sequence[Uses], group: Sequence[int]) -> Question:
    """The group alone, on what the other models leave."""
    left = list(question.gpu_counts)
    for m, mine in enumerate(uses):
        if m not in group:
            for g, count in enumerate(gpus_taken(question.wanted[m], mine, len(left))):
                left[g] -= count
    # The bound on z keeps to the entry's rows, which are over all models.
    wanted = [question.wanted[m] for m in group]
    return replace(question, wanted=wanted, gpu_counts=left, entry=())


def _start(question: Question, uses: Sequence[Uses], group: Sequence[int]) -> list[Uses]:
    """The group's present plan, every model held to what the worst of them, or its wanted rate, needs."""
    wanted = 1.0
    if question.objective is Objective.MAX_RATE:
        wanted = min(_factor(question, uses, m) for m in group)
    start = []
    for m in group:
        factor = _factor(question, uses, m)
        part = wanted / factor if factor else 0.0
        rates = question.wanted[m].columns.rate_rps
        start.append(
            tuple(
                replace(
                    use, rate_rps=part * min(n * float(rates[use.row, i]) for i, n in enumerate(use.workers))
                )
                for use in uses[m]
            )
        )
    return start


def _better(question: Question, uses: Sequence[Uses], new: dict[int, Uses]) -> bool:
    if question.objective is Objective.MAX_RATE:
        before = min(_factor(question, uses, m) for m in new)
        after = min(served_rps(question.wanted[m], mine) / question.wanted[m].rate for m, mine in new.items())
        return after > before * (1 + GAIN)
    saved = sum(
        _cost(question, question.wanted[m], uses[m]) - _cost(question, question.wanted[m], mine)
        for m, mine in new.items()
    )
    return saved > GAIN
