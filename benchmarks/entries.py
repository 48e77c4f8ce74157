"""scripts/benchmarks entries: what two entries with a shard each serve of what one scheduler does, simulated;
and what kills of one of them under load cost, live.

Problems: the README's fleet of L4s and T4s (estimated latencies), made ones from a seed, and with --data DIR
those of settings.json. Each model's load at 99 % is searched with one scheduler of all workers, with
two shards and frames passed on, and with two shards and none passed on; beside the last stands what
planner.queueing says of it. The last line has

    problems, models, two_shards_over_one_capacity (mean of the problems' means), least_over_one,
    without_forwarding, closed_form_without_forwarding, l4_t4 (the first's mean), passed_on (share of frames)

and, where entries were killed (--kills 0 for none), what helpers.entries.kills counts: kills,
failed_at_others, double, wrong, adoption_s_max, recovery_s_max, given_back_s_max; helpers.entries.cpu's
cpu_two_over_one; helpers.entries.limited's two_limited_over_one_rps; and of entries on hosts apart
(helpers.entries.hosts): apart_faults, apart_attained_min, apart_not_ended, apart_double, apart_wrong,
apart_back_s_max, apart_kept; the same as far_faults and so on, where links delay and lose packets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.helpers.entries.cpu import cpu_of_entries
from benchmarks.helpers.entries.hosts import run_faults
from benchmarks.helpers.entries.kills import run_kills
from benchmarks.helpers.entries.limited import limited
from benchmarks.helpers.kept import Kept
from benchmarks.paper.problems import FLEET, parser_of, problems
from planner.cluster import EntryServer
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Problem
from planner.serving import ServedModel
from planner.serving_build import Links, served_model
from planner.sharding import plan_shards
from planner.shards import ModelShards, shard_of
from python_backend.simulator.capacity import Workload, find_capacity
from python_backend.simulator.shards import Passing, ShardedRun, find_sharded_capacity

_STEP, _LOWEST, _HIGHEST = 0.01, 0.5, 1.3
"""Loads that are tried, in planned rates."""
_CPU_S, _LIMITED_S = 4.0, 6.0
_CUT_S = (2.0, 10.0)
_LIVE: Mapping[str, Callable[[int, int], dict[str, Any]]] = {
    "kills": run_kills,
    "cpu": lambda kills, seed: cpu_of_entries(_CPU_S),
    "limited": lambda kills, seed: limited(_LIMITED_S),
    "apart": lambda kills, seed: run_faults(seed, *_CUT_S),
    "far": lambda kills, seed: run_faults(seed, *_CUT_S, far=True),
}
"""Parts on real servers, in their order: what each measures, with so many kills and a seed."""


@dataclass(frozen=True)
class Row:
    """One model of one problem. one_rps: what one scheduler serves; the rest over that, but for the shares.
    closed_form: divided over undivided pools, by planner.queueing.
    """

    problem: str
    model: str
    shards: int
    one_rps: float
    two: float
    without: float
    closed_form: float
    passed_on: float


@dataclass(frozen=True)
class _Job:
    problem: str
    whole: ServedModel
    parts: tuple[ServedModel, ...]
    shards: ModelShards
    seconds: float
    seeds: tuple[int, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, return the exit status."""
    arguments = _arguments(argv)
    kept = Kept(arguments.results, {"seconds": arguments.seconds, "seeds": arguments.seeds})
    seeds = tuple(range(1, arguments.seeds + 1))
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for name, problem, links in problems(arguments):
            if f"{name} " in kept:
                continue
            rows = list(pool.map(measure, _jobs(name, problem, links, arguments.seconds, seeds)))
            kept.add(f"{name} ", {"rows": [asdict(row) for row in rows]})
            ratios = ", ".join(f"{row.two:.3f}" for row in rows)
            print(f"{name}: {ratios}", file=sys.stderr, flush=True)
    rows = [Row(**row) for found in kept.named("") for row in found["rows"]]
    if not arguments.json:
        Console(width=110).print(table(rows))
    live: dict[str, Any] = {}
    for part, measured in _LIVE.items() if arguments.kills else ():
        if part in arguments.parts:
            live |= measured(arguments.kills, arguments.seed)
            for each in (*live.pop("by_kill", ()), *live.pop("by_fault", ())):
                print(json.dumps(each), file=sys.stderr)
    print(json.dumps({**live, **figures(rows)}))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("entries", __doc__.split("\n")[0], each="rate", seeds=2)
    parser.add_argument("--json", action="store_true", help="the figures alone, as the last line")
    parser.add_argument("--kills", type=int, default=20, help="of a random entry, live (default: 20)")
    parser.add_argument("--parts", nargs="+", choices=_LIVE, default=tuple(_LIVE), help="of what is live")
    return parser.parse_args(argv)


def _jobs(
    name: str, problem: Problem, links: Links, seconds: float, seeds: tuple[int, ...]
) -> Iterator[_Job]:
    entry = problem.cluster.entry
    pair = (replace(entry, name="entry-0"), replace(entry, name="entry-1"))
    divided = replace(problem, cluster=replace(problem.cluster, entry=pair[0], more_entries=pair[1:]))
    made = plan(divided, mode="fast")
    if links == "paper":
        # Its links join workers by their numbers, so by these they are near.
        made = replace(made, shards=plan_shards(replace(made, placement=None), divided))
    for shards in made.shards:
        whole = _served(made, divided, pair[0], shards.model, links)
        parts = tuple(
            shard_of(_served(made, divided, _entry(pair, shard.order[0]), shards.model, links), shard)
            for shard in shards.shards
        )
        yield _Job(name, whole, parts, shards, seconds, seeds)


def _entry(pair: Sequence[EntryServer], name: str) -> EntryServer:
    return next(entry for entry in pair if entry.name == name)


def _served(made: Plan, problem: Problem, entry: EntryServer, model: str, links: Links) -> ServedModel:
    """The model as the dispatcher of one entry sees it."""
    alone = replace(problem.cluster, entry=entry, more_entries=())
    return served_model(made, replace(problem, cluster=alone), model, links)


def measure(job: _Job) -> Row:
    """One model: loads served by one scheduler, by its shards, and by these where each keeps its frames."""
    planned = job.whole.planned_rps
    steps = round((_HIGHEST - _LOWEST) / _STEP) + 1
    rates = [planned * (_LOWEST + _STEP * step) for step in range(steps)]
    workload = Workload(seconds=job.seconds, seeds=job.seeds)
    one = find_capacity(job.whole, "adaptive", rates, workload, guess_rps=0.9 * planned).load_rps
    two = find_sharded_capacity(job.parts, rates, workload, guess_rps=one).load_rps
    none = Passing(passes=False)
    without = find_sharded_capacity(job.parts, rates, workload, 0.9 * one, none).load_rps
    run = ShardedRun(job.parts, Passing())
    counts = run.run(iter(workload.times_us(two or planned, 1, job.whole.model)))
    whole_rps = job.shards.whole_rps
    return Row(
        problem=job.problem,
        model=job.whole.model,
        shards=len(job.parts),
        one_rps=one,
        two=two / one if one else 1.0,
        without=without / one if one else 1.0,
        closed_form=job.shards.divided_rps / whole_rps if whole_rps else 1.0,
        passed_on=run.passed / max(1, counts.offered),
    )


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """The figures of the module's docstring."""
    by_problem: dict[str, list[Row]] = {}
    for row in rows:
        by_problem.setdefault(row.problem, []).append(row)

    def mean(field: str) -> float:
        means = [statistics.fmean(getattr(row, field) for row in mine) for mine in by_problem.values()]
        return round(statistics.fmean(means), 4) if means else 0.0

    found = {
        "problems": len(by_problem),
        "models": len(rows),
        "two_shards_over_one_capacity": mean("two"),
        "least_over_one": round(min((row.two for row in rows), default=0.0), 4),
        "without_forwarding": mean("without"),
        "closed_form_without_forwarding": mean("closed_form"),
        "passed_on": mean("passed_on"),
    }
    if FLEET in by_problem:
        found["l4_t4"] = round(statistics.fmean(row.two for row in by_problem[FLEET]), 4)
    return found


def table(rows: Sequence[Row]) -> Table:
    """A model a line."""
    made = Table(title="load served at 99 % by two entries' shards, over what one scheduler serves")
    columns = ("problem", "model", "shards", "one rps", "two", "none passed on", "closed form", "passed on")
    for name in columns:
        made.add_column(name, justify="left" if name in ("problem", "model") else "right")
    for row in rows:
        shares = (row.two, row.without, row.closed_form)
        cells = [row.problem, row.model, str(row.shards), f"{row.one_rps:.0f}"]
        made.add_row(*cells, *(f"{share:.3f}" for share in shares), f"{row.passed_on:.1%}")
    return made


if __name__ == "__main__":
    sys.exit(main())
