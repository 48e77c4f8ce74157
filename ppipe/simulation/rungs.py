"""What a search of margins may choose for a model, as one ladder: rungs near each other give like plans.

Rules
- The first rungs leave a margin of the SLO, less and less of it. The last ones leave none, and count more and
  more of a batch as room for a burst (planner.queueing); they are there for bursty arrivals alone.
- A choice names, by index, a loss to plan for and a rung for each model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planner.problem import Problem
from ppipe.simulation.margined import dispersion_for, may_be_wrong

LADDER = (0.4, 0.25, 0.16, 0.1, 0.06, 0.03, 0.0)
"""Margins to choose from."""
BATCH_ROOMS = (0.15, 0.3, 0.45, 0.6, 0.8)
"""Shares of a batch to count as room, where arrivals are bursty."""
LOSSES = (0.004, 0.01, 0.02)
"""Shares of loss to plan for; what is served is judged at 1 %."""
FIRST = ((1, 6), (1, 5), (1, 4), (1, 3))
"""(loss, rung) to begin with, by index; rungs alike for all models."""
FIRST_IF_WRONG = ((1, 1), (1, 0), (1, 2), (1, 4))
"""The same where latencies may be wrong: by as much a plan needs room."""
FIRST_IF_BURSTY = ((1, 6), (1, 4), (1, 3), (1, 7), (1, 8))
"""The same where arrivals are bursty: a plan serves most of its throughput, and little of a batch is room."""
FIRST_IF_WILD = ((1, 5), (1, 7), (1, 8), (1, 9), (1, 10))
"""The same where half of a plan is idle between bursts: how much of a batch is room matters more then
than small margins do.
"""
FIRST_IF_BOTH = ((1, 1), (1, 2), (1, 4), (1, 8), (1, 10))
"""The same where arrivals are bursty and latencies may be wrong."""
BURSTY, WILD = 2.0, 9.0
"""Variance over mean of arrivals from which they count as such; of counted Poisson arrivals it is near 1."""
MOST_CANDIDATES, MOST_IF_BURSTY = 5, 8
"""Planned in fast mode."""
Choice = tuple[int, tuple[int, ...], str]
"""Index of a loss, and of a rung for each model; the planner's mode."""


@dataclass(frozen=True)
class Rung:
    """What one model leaves of its SLO, and how much of a batch counts as room (Demand.batch_room)."""

    margin: float
    batch_room: float = 0.0


@dataclass(frozen=True)
class Ladder:
    """The rungs of one problem, the (loss, rung) to begin with, and how many candidates there may be."""

    rungs: tuple[Rung, ...]
    first: tuple[tuple[int, int], ...]
    most: int

    def neighbours(self, choice: Choice) -> Iterator[Choice]:
        """The loss, or one model's rung, a step up or down."""
        loss, steps, mode = choice
        for other in (loss - 1, loss + 1):
            if 0 <= other < len(LOSSES):
                yield other, steps, mode
        for model in range(len(steps)):
            for change in (-1, 1):
                step = steps[model] + change
                if 0 <= step < len(self.rungs):
                    yield loss, (*steps[:model], step, *steps[model + 1 :]), mode


def ladder_of(problem: Problem) -> Ladder:
    """What may be chosen under what is expected. Raises ArrivalError."""
    margins, wrong = tuple(Rung(margin) for margin in LADDER), may_be_wrong(problem)
    dispersion = dispersion_for(problem)
    if dispersion < BURSTY:
        return Ladder(margins, FIRST_IF_WRONG if wrong else FIRST, MOST_CANDIDATES)
    rooms = tuple(Rung(0.0, room) for room in BATCH_ROOMS)
    first = FIRST_IF_BOTH if wrong else FIRST_IF_WILD if dispersion >= WILD else FIRST_IF_BURSTY
    return Ladder(margins + rooms, first, MOST_IF_BURSTY)
