"""What the search for a cascade's plan chooses: how much of its time each model leaves, how the SLO is
divided, and for how many more frames than there are a member is planned.

Margins and parts say which pipelines a model may have: its budget is its part less its margin. A part also
says how long the scheduler waits for that member's answers, so the two are chosen apart. Headroom says how
the GPUs are divided: of members with equal throughput the one whose frames come in bunches is full first.

Rules
- Around a plan that was simulated, batches are planned to fill at the rates that it serves.
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
HEADROOM = (1.0, 1.02, 1.04, 1.07, 1.1, 1.15, 1.2)
"""To choose from, for each member."""
NEAR, FAR = 1.25, 2.0
"""A part changes by at most this factor: of a choice beside the best one, and of one elsewhere."""
ELSEWHERE = 0.4
"""Of the choices, so many in one are not beside the best."""
_STEPS = 200
"""Parts are so manieth parts of the SLO."""
_DRAWS = 20


@dataclass(frozen=True)
class Choice:
    """margins: by model. parts: of the cascades' SLOs, by member; empty: as the planner divides. headroom: by
    member; 1 for others. fill_rps: at which batches fill, by model; others': as the planner finds them.
    """

    margins: tuple[tuple[str, float], ...]
    parts: tuple[tuple[str, int], ...] = ()
    headroom: tuple[tuple[str, float], ...] = ()
    fill_rps: tuple[tuple[str, float], ...] = ()

    def problem(self, problem: Problem) -> Problem:
        """The problem with what was chosen, but for the parts."""
        margins, headroom, fill = dict(self.margins), dict(self.headroom), dict(self.fill_rps)
        demands = tuple(
            replace(
                one,
                slo_margin=margins[one.model],
                batch_build_rps=one.batch_build_rps or fill.get(one.model),
            )
            for one in problem.demands
        )
        cascades = tuple(
            replace(
                cascade,
                members=tuple(
                    replace(member, headroom=headroom.get(member.model, 1.0)) for member in cascade.members
                ),
            )
            for cascade in problem.cascades
        )
        return replace(problem, demands=demands, cascades=cascades)


def alike(problem: Problem, margin: float) -> Choice:
    """One margin for all models."""
    return Choice(tuple((demand.model, margin) for demand in problem.demands))


def another(
    problem: Problem,
    best: Choice,
    parts: Mapping[str, int],
    fill_rps: Mapping[str, float],
    rng: random.Random,
) -> Choice:
    """One beside the best so far, whose plan has these parts and serves these rates, or one elsewhere."""
    members = [member.model for one in problem.cascades for member in one.members]
    feeding = [member.model for one in problem.cascades for member in one.members if member not in one.leaves]
    margins, changed = dict(best.margins), dict(parts)
    headroom = dict.fromkeys(members, 1.0) | dict(best.headroom)
    far = rng.random() < ELSEWHERE

    def change_margin(name: str) -> None:
        margins[name] = rng.choice(MARGINS)

    def change_part(name: str) -> None:
        changed[name] = _other_part(problem, name, changed, FAR if far else NEAR, rng)

    def change_headroom(name: str) -> None:
        headroom[name] = rng.choice(HEADROOM)

    knobs = [
        *((change_margin, name) for name in margins),
        *((change_part, name) for name in feeding),
        *((change_headroom, name) for name in members),
    ]
    for change, name in knobs if far else rng.sample(knobs, rng.choice((1, 1, 2))):
        change(name)
    for cascade in problem.cascades:
        changed |= _left(cascade, changed)
    return Choice(
        tuple(margins.items()), tuple(changed.items()), tuple(headroom.items()), tuple(fill_rps.items())
    )


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
