"""Divides a cascade's SLO among its models: a search around the planner, by bounds that hold.

More time never serves less. So over a box of divisions (every feeding member's part between two values)
nothing is better than the relaxation with each member's longest time in the box, though these do not fit
together: a feeding member its upper value, a last member what the lower values before it leave. Boxes are
taken in the order of that bound and halved until they are single divisions; those are planned. The search
ends when no box that is left can beat the best plan by more than GAP.

Rules
- Feeding members' parts are taken from ladders: the times at which one more of their pipelines comes into
  reach. Parts between two steps change nothing for the member and take time from those after it. Ladders of
  more than MOST_STEPS steps are thinned, each step to the next higher one kept.
- Last members get all that is left.
- Limits count plans and bounds, so the same problem gives the same division.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from planner.cascades.data import Cascade, Parts
from planner.cascades.demands import divided
from planner.cascades.outlook import Outlook
from planner.pipelines import Ints
from planner.problem import Objective, Problem

GAP = 1e-3
MOST_STEPS = 256
MOST_PLANS, MOST_BOUNDS = 48, 800
Box = tuple[tuple[int, int], ...]
"""Per feeding member, the first and the last step of its ladder that are in it."""
Reach = Callable[[Problem], float | None]
"""The objective of a divided problem's plan; None where it has none."""


@dataclass(frozen=True)
class Division:
    """The best parts found, and a bound on the objective over all divisions."""

    parts: dict[str, int]
    bound: float


class NoDivision(ValueError):
    """No way of dividing the SLO leaves every member a pipeline."""


def divide(problem: Problem, reach: Reach) -> Division:
    """Raises NoDivision."""
    return _Search(problem, reach).run()


@dataclass
class _Best:
    value: float
    parts: dict[str, int] = field(default_factory=dict)


class _Search:
    def __init__(self, problem: Problem, reach: Reach) -> None:
        self._problem = problem
        self._reach = reach
        self._sign = 1.0 if problem.options.objective is Objective.MAX_RATE else -1.0
        self._outlook = Outlook(problem)
        self._feeding = [
            (cascade, member.model)
            for cascade in problem.cascades
            for member in cascade.members
            if member not in cascade.leaves
        ]
        self._ladders = [_thinned(self._outlook.steps(model)) for _, model in self._feeding]
        self._best = _Best(-math.inf)
        self._planned: dict[tuple[int, ...], None] = {}

    def run(self) -> Division:
        boxes: list[tuple[float, int, Box]] = []
        serial = itertools.count()
        bounds = 0

        def add(box: Box) -> None:
            bound = self._bound(box)
            if bound > self._best.value:
                heapq.heappush(boxes, (-bound, next(serial), box))

        if all(len(ladder) for ladder in self._ladders):
            add(tuple((0, len(ladder) - 1) for ladder in self._ladders))
        bound = -math.inf
        while boxes:
            bound = -boxes[0][0]
            if not self._worth(bound) or bounds >= MOST_BOUNDS or len(self._planned) >= MOST_PLANS:
                break
            _, _, box = heapq.heappop(boxes)
            if all(first == last for first, last in box):
                self._plan(box)
                continue
            if _is_early(bounds):
                self._plan(box)
            for half in _halves(box, self._ladders):
                add(half)
                bounds += 1
        if not self._best.parts:
            raise NoDivision
        left = -boxes[0][0] if boxes else -math.inf
        return Division(self._best.parts, self._sign * max(left, self._best.value))

    def _worth(self, bound: float) -> bool:
        best = self._best.value
        return math.isinf(best) or bound > best + GAP * abs(best)

    def _bound(self, box: Box) -> float:
        """Of any division in the box; in the objective's own direction, up is better."""
        longest, shortest = self._ends(box, last=True), self._ends(box, last=False)
        found = self._outlook.bound(self._all_parts(shortest, longest))
        return -math.inf if found is None else self._sign * found

    def _plan(self, box: Box) -> None:
        """Plan the division of the box's upper steps, or of its lower ones where these do not fit."""
        for last in (True, False):
            steps = tuple(pair[last] for pair in box)
            parts = self._all_parts(*[self._ends(box, last)] * 2)
            if steps in self._planned or self._outlook.bound(parts) is None:
                continue
            self._planned[steps] = None
            value = self._reach(divided(self._problem, parts))
            if value is not None and self._sign * value > self._best.value:
                self._best = _Best(self._sign * value, dict(parts))
            return

    def _ends(self, box: Box, last: bool) -> dict[str, int]:
        """Of the feeding members: their parts at one end of the box."""
        pairs = zip(self._feeding, self._ladders, box, strict=True)
        return {model: int(ladder[pair[last]]) for (_, model), ladder, pair in pairs}

    def _all_parts(self, before: Mapping[str, int], own: Mapping[str, int]) -> dict[str, int]:
        """Feeding members get `own`, last ones what `before` leaves of the SLO."""
        parts = dict(own)
        for cascade in self._problem.cascades:
            for leaf in cascade.leaves:
                parts[leaf.model] = _left(cascade, leaf.model, before)
        return parts


def _left(cascade: Cascade, leaf: str, before: Parts) -> int:
    return cascade.slo_us - sum(before[member.model] for member in cascade.way_to(leaf)[:-1])


def _thinned(steps: Ints) -> Ints:
    if len(steps) <= MOST_STEPS:
        return steps
    kept = np.linspace(0, len(steps) - 1, MOST_STEPS).round().astype(int)
    return np.asarray(steps[np.unique(kept)])


def _halves(box: Box, ladders: list[Ints]) -> Iterator[Box]:
    """The box cut in two across the member whose part is least certain."""
    spans = [int(ladder[last] - ladder[first]) for (first, last), ladder in zip(box, ladders, strict=True)]
    widths = [span if last > first else -1 for span, (first, last) in zip(spans, box, strict=True)]
    cut = widths.index(max(widths))
    first, last = box[cut]
    middle = (first + last) // 2
    for part in ((first, middle), (middle + 1, last)):
        yield (*box[:cut], part, *box[cut + 1 :])


def _is_early(bounds: int) -> bool:
    """Plans now and then on the way down, so that there is something to beat."""
    return bounds in (0, 2, 4, 8, 16, 32, 64)
