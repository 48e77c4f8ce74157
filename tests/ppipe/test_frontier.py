"""What each load costs: rising with the load, and never more than the whole fleet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from planner.planning import plan
from ppipe.frontier import draw_frontier, frontier, frontier_table
from ppipe.plan_view import plan_table
from tests.fixtures.made_problems import MadeSize, made_problem

PROBLEM = made_problem(MadeSize(gpus=12, classes=2, models=2, blocks=4, max_slices=2), seed=2)
PRICED = replace(PROBLEM, options=replace(PROBLEM.options, gpu_cost={"C0": 3.0, "C1": 0.5}))


def test_more_load_costs_more_and_small_loads_are_cheap(tmp_path: Path) -> None:
    points = frontier(PRICED, steps=4)
    assert [point.share for point in points] == [0.25, 0.5, 0.75, 1.0]
    costs = [point.cost for point in points]
    assert costs == sorted(costs)
    assert costs[0] < 0.6 * costs[-1]
    whole = sum(PRICED.cluster.gpu_count(gpu) * cost for gpu, cost in PRICED.options.gpu_cost.items())
    assert costs[-1] <= whole
    for point in points:
        assert point.cost == sum(PRICED.options.gpu_cost[gpu] * n for gpu, n in point.gpus.items())
        assert point.rates_rps.keys() == {"net00", "net01"}
    assert frontier_table(points).row_count == 4
    for name in ("frontier.png", "frontier.svg"):
        draw_frontier(points, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_the_table_says_what_the_gpus_cost() -> None:
    made = plan(PRICED, mode="fast")
    console = Console(width=100)
    with console.capture() as shown:
        console.print(plan_table(made))
    assert made.cost.keys() == made.gpus_used.keys()
    for gpu, used in made.gpus_used.items():
        assert made.cost[gpu] == PRICED.options.gpu_cost[gpu[:2]] * used
        assert f"{made.cost[gpu]:.2f}" in shown.get()
    assert f"{sum(made.cost.values()):.2f} per hour" in shown.get()
