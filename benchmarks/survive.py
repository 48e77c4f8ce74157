"""scripts/benchmarks survive: plans that promise a load after the loss of any one server, and each loss.

Problems: the README's fleet of L4s and T4s (estimated latencies), made ones from a seed, and with --data DIR
those of settings.json. Each is planned, then every loss is served in simulation at the promised load, on
seeds that the planner never saw; losses that leave the same of a model are simulated once. The last line has

    problems, losses_simulated, attainment_min, gap_max, seconds_max      seconds: to plan, promise included
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.helpers.kept import Kept
from benchmarks.paper.problems import parser_of, problems
from planner.problem import Problem, wanted_of
from planner.serving import ServedModel
from planner.serving_build import Links, served_model
from ppipe.simulation.judging import Judge
from ppipe.simulation.survival import remaining, surviving_plan
from python_backend.simulator.capacity import Workload
from python_backend.simulator.report import simulate

MORE_TO_DO = 3
"""Exit status of a run that was stopped early."""


@dataclass(frozen=True)
class Row:
    """One problem: its promise, and what its losses served at it. without, promised, bound: in units of the
    models' weights.
    """

    problem: str
    losses: int
    simulated: int
    promised: float
    bound: float
    gap: float
    without: float
    binding: str
    attainment_min: float
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, return the exit status."""
    arguments = _arguments(argv)
    kept = Kept(arguments.results, {"seconds": arguments.seconds, "seeds": arguments.seeds})
    end = None if arguments.stop_after is None else time.monotonic() + arguments.stop_after
    left = 0
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for name, problem, links in problems(arguments):
            if name in kept:
                continue
            if end is not None and time.monotonic() > end:
                left += 1
                continue
            row = measure(
                name, _surviving(problem), links, arguments.seconds, range(1, arguments.seeds + 1), pool
            )
            kept.add(name, asdict(row))
            print(f"{name}: {row.promised:.1f} of {row.without:.1f}", file=sys.stderr, flush=True)
    rows = [Row(**found) for found in kept.named("")]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        Console(width=110).print(table(rows))
    print(json.dumps(figures(rows)))
    return MORE_TO_DO if left else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("survive", __doc__.split("\n")[0], each="loss", seeds=1)
    parser.add_argument("--stop-after", type=float, metavar="S", help=f"seconds; then status {MORE_TO_DO}")
    parser.add_argument("--json", action="store_true", help="rows, then the figures as the last line")
    return parser.parse_args(argv)


def _surviving(problem: Problem) -> Problem:
    return replace(problem, options=replace(problem.options, survive_servers=1))


def measure(
    name: str, problem: Problem, links: Links, seconds: float, seeds: Sequence[int], pool: Executor
) -> Row:
    """Plan, then serve the promised load after every loss."""
    started = time.monotonic()
    planned, made = surviving_plan(problem, Judge(links=links))
    took_s = time.monotonic() - started
    assert made.survival is not None
    survival = made.survival
    wanted = {demand.model: wanted_of(demand, problem.options) for demand in problem.demands}
    jobs = [
        (
            served_model(one.whole, planned, model, links),
            survival.promised * wanted[model],
            Workload(problem.options.expect.arrivals, seconds, (seed,)),
        )
        for model, each in remaining(made, planned).items()
        for one in each
        for seed in seeds
    ]
    attained = list(pool.map(_attainment, jobs))
    means = [sum(attained[i : i + len(seeds)]) / len(seeds) for i in range(0, len(attained), len(seeds))]
    return Row(
        problem=name,
        losses=survival.losses,
        simulated=len(means),
        promised=survival.promised,
        bound=survival.bound,
        gap=survival.gap,
        without=survival.without,
        binding=survival.binding,
        attainment_min=min(means),
        seconds=round(took_s, 1),
    )


def _attainment(job: tuple[ServedModel, float, Workload]) -> float:
    served, rate_rps, workload = job
    if not served.pipelines:
        return 0.0
    return simulate(served, rate_rps, workload=workload).attainment


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """The figures of the module's docstring."""
    return {
        "problems": len(rows),
        "losses_simulated": sum(row.losses for row in rows),
        "attainment_min": round(min((row.attainment_min for row in rows), default=0.0), 5),
        "gap_max": round(max((row.gap for row in rows), default=0.0), 4),
        "seconds_max": max((row.seconds for row in rows), default=0.0),
    }


def table(rows: Sequence[Row]) -> Table:
    """A problem a line."""
    made = Table(title="the promised load, after the loss of any one server")
    columns = ("problem", "losses", "promised", "at most", "without", "price", "attainment", "s", "binding")
    for name in columns:
        made.add_column(name, justify="left" if name in ("problem", "binding") else "right")
    for row in rows:
        cells: list[Any] = [row.problem, row.losses, f"{row.promised:.1f}", f"{row.bound:.1f}"]
        cells += [f"{row.without:.1f}", f"{1 - row.promised / row.without:.0%}", f"{row.attainment_min:.4f}"]
        made.add_row(*map(str, cells), f"{row.seconds:.0f}", row.binding)
    return made


if __name__ == "__main__":
    sys.exit(main())
