"""What each load costs at least: for fleets that are rented, how much to rent.

Loads are shares of the most that the whole fleet serves; each is planned for min-cost, with room for random
arrivals (planner.queueing), so a load is one that arrivals can use and not mere throughput.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from rich.table import Table

from planner.assembly import gpus_used
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Objective, Problem, wanted_of
from planner.surviving import promised_factor
from ppipe.figures import save_figure

STEPS = 10
LOSS_SHARE = 0.01


@dataclass(frozen=True)
class Point:
    """A load: its share of the most, every model's frames/s, what the GPUs cost per hour, and which they
    are.
    """

    share: float
    rates_rps: Mapping[str, float]
    cost: float
    gpus: Mapping[str, int]


def frontier(problem: Problem, steps: int = STEPS) -> tuple[Point, ...]:
    """Points of rising load, the last one all that the fleet serves. Raises what the planner raises."""
    room = replace(problem.options, loss_share=LOSS_SHARE, objective=Objective.MAX_RATE)
    weights = {demand.model: wanted_of(demand, problem.options) for demand in problem.demands}
    most = plan(_wanting(problem, room, weights, 1.0), mode="fast")
    factor = promised_factor(most, _wanting(problem, room, weights, 1.0))
    cheapest = replace(room, objective=Objective.MIN_COST)
    points = []
    for step in range(1, steps):
        wanted = _wanting(problem, cheapest, weights, factor * step / steps)
        points.append(_point(step / steps, plan(wanted, mode="fast"), wanted))
    return (*points, _point(1.0, most, _wanting(problem, room, weights, factor)))


def _wanting(problem: Problem, options: object, weights: Mapping[str, float], factor: float) -> Problem:
    demands = tuple(
        replace(demand, rate_rps=weights[demand.model] * factor, weight=weights[demand.model])
        for demand in problem.demands
    )
    return replace(problem, demands=demands, options=options)  # type: ignore[arg-type]


def _point(share: float, made: Plan, problem: Problem) -> Point:
    rates = {demand.model: demand.rate_rps or 0.0 for demand in problem.demands}
    used = gpus_used(problem, made.models)
    cost = sum(problem.options.gpu_cost.get(gpu, 1.0) * count for gpu, count in used.items())
    return Point(share, rates, cost, used)


def frontier_table(points: Sequence[Point]) -> Table:
    """A load a line."""
    made = Table(title="the least that each load costs")
    models = list(points[0].rates_rps)
    for name in ("load", *(f"{model} rps" for model in models), "cost per hour", "GPUs"):
        made.add_column(name, justify="left" if name == "GPUs" else "right", overflow="fold")
    for point in points:
        gpus = ", ".join(f"{count} {gpu}" for gpu, count in point.gpus.items() if count)
        rates = [f"{rate:.1f}" for rate in point.rates_rps.values()]
        made.add_row(f"{point.share:.0%}", *rates, f"{point.cost:.2f}", gpus)
    return made


def draw_frontier(points: Sequence[Point], path: Path) -> None:
    """Load against cost, as steps: what lies below the line cannot be had."""
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    shares = [0.0, *(point.share * 100 for point in points)]
    costs = [0.0, *(point.cost for point in points)]
    axes.plot(costs, shares, marker="o", color="#4e79a7")
    for point in points:
        gpus = ", ".join(f"{count} {gpu}" for gpu, count in point.gpus.items() if count)
        axes.annotate(
            gpus,
            (point.cost, point.share * 100),
            fontsize=7,
            xytext=(6, -10),
            textcoords="offset points",
            color="#555555",
        )
    axes.set_xlabel("cost per hour of the GPUs in use")
    axes.set_ylabel("load, % of the most that the fleet serves")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 105)
    axes.grid(alpha=0.3)
    save_figure(figure, path)
