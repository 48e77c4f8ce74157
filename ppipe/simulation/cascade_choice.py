"""What the search for a cascade's plan chooses: how much of its time each model leaves, and how the SLO is
divided.

Both say which pipelines a model may have: its budget is its part less its margin. A part also says how long
the scheduler waits for that member's answers, so the two are chosen apart.

Rules
- The parts along every way from the first member to a last one are the cascade's SLO.
- The same generator gives the same choices.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from planner.cascades.data import Cascade
from planner.problem import Problem

MARGINS = (0.0, 0.03, 0.06, 0.1, 0.16, 0.25, 0.4, 0.5)
"""To choose from, for each model."""
NEAR, FAR = 1.25, 2.0
"""A part changes by at most this factor: of a choice beside the best one, and of one elsewhere."""
ELSEWHERE = 0.4
"""Of the choices, so many in one are not beside the best."""
_STEPS = 200
"""Parts are so manieth parts of the SLO."""
_DRAWS = 20


@dataclass(frozen=True)
class Choice:
    """margins: by model. parts: of the cascades' SLOs, by member; empty: as the planner divides."""

    margins: tuple[tuple[str, float], ...]
    parts: tuple[tuple[str, int], ...] = ()

    def problem(self, problem: Problem) -> Problem:
        """The problem with these margins."""
        margins = dict(self.margins)
        demands = tuple(replace(one, slo_margin=margins[one.model]) for one in problem.demands)
        return replace(problem, demands=demands)


def alike(problem: Problem, margin: float) -> Choice:
    """One margin for all models."""
    return Choice(tuple((demand.model, margin) for demand in problem.demands))


def another(problem: Problem, best: Choice, parts: Mapping[str, int], rng: random.Random) -> Choice:
    """One beside the best so far, whose plan has these parts, or one elsewhere."""
    feeding = [member.model for one in problem.cascades for member in one.members if member not in one.leaves]
    margins, changed = dict(best.margins), dict(parts)
    knobs = [(name, True) for name in margins] + [(name, False) for name in feeding]
    far = rng.random() < ELSEWHERE
    for name, is_margin in knobs if far else rng.sample(knobs, rng.choice((1, 1, 2))):
        if is_margin:
            margins[name] = rng.choice(MARGINS)
        else:
            changed[name] = _other_part(problem, name, changed, FAR if far else NEAR, rng)
    for cascade in problem.cascades:
        changed |= _left(cascade, changed)
    return Choice(tuple(margins.items()), tuple(changed.items()))


def _other_part(
    problem: Problem, name: str, parts: Mapping[str, int], most: float, rng: random.Random
) -> int:
    """Of a feeding member, so that something is left for those after it."""
    cascade = next(one for one in problem.cascades if any(name == member.model for member in one.members))
    step = max(1, cascade.slo_us // _STEPS)
    for _ in range(_DRAWS):
        part = max(1, round(parts[name] * math.pow(most, rng.uniform(-1, 1)) / step)) * step
        if all(left > 0 for left in _left(cascade, {**parts, name: part}).values()):
            return part
    return parts[name]


def _left(cascade: Cascade, parts: Mapping[str, int]) -> dict[str, int]:
    """What members that feed no other have."""
    return dict(_lefts(cascade, parts))


def _lefts(cascade: Cascade, parts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for leaf in cascade.leaves:
        before = cascade.way_to(leaf.model)[:-1]
        yield leaf.model, cascade.slo_us - sum(parts[member.model] for member in before)
