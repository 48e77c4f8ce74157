"""The problem with margins: how much of its SLO each model leaves, and the losses that are planned for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.expectation import slowdown_of
from planner.problem import Problem
from ppipe.simulation.scenarios import dispersion_of

RATE_OF_BURSTS = 30.0
"""Frames in one SLO at which bursts of arrivals are counted."""
WINDOW_SLOS = 8
"""Length of the stretch over which bursts of arrivals are counted."""


def with_margins(
    problem: Problem, margins: Sequence[float], loss_share: float, batch_rooms: Sequence[float] | None = None
) -> Problem:
    """The problem with one margin for each demand, in order, and the share of loss to plan for. Time to form
    batches is then part of the slack that planner.queueing counts. batch_rooms: Demand.batch_room, by demand.
    """
    rooms = [0.0] * len(margins) if batch_rooms is None else batch_rooms
    demands = tuple(
        replace(demand, slo_margin=margin, batch_room=room)
        for demand, margin, room in zip(problem.demands, margins, rooms, strict=True)
    )
    options = replace(
        problem.options, loss_share=loss_share, batch_build_factor=0.0, dispersion=dispersion_for(problem)
    )
    return replace(problem, demands=demands, options=options)


def dispersion_for(problem: Problem) -> float:
    """How bursty the arrivals are that are expected (PlanOptions.dispersion). Raises ArrivalError."""
    slo_s = max(demand.slo_us for demand in problem.demands) / 1e6
    return dispersion_of(problem.options.expect.arrivals, RATE_OF_BURSTS / slo_s, WINDOW_SLOS * slo_s)


def may_be_wrong(problem: Problem) -> bool:
    """Whether any latency is expected to be other than profiled, all the time."""
    expect = problem.options.expect
    return any(slowdown_of(table, expect) > 0 for one in problem.profile.models for table in one.tables)
