"""How good and how fast the planner is: scripts/benchmarks planner [SECTION ...] [--data DIR] [--json]

Sections:

- settings: the two-stage problems of a data folder: proven and fast mode, NP, DART-r, beside the reference
- pairs: what several pipelines per ordered pair of GPU classes gain over one, as the reference has
- three-stage: the three-stage problems of a data folder
- batches: what batch sizes of their own per stage gain
- large: made clusters of 1,000 and 10,000 GPUs: gap to the relaxation's bound, time, peak memory
- many: 20 models on 20 and 40 GPUs, 150 on 200, each shape with each seed and each SLO: proven gap, time;
  hours in all: --seeds and --gpus take a part
- replan: fast mode after the loss of each server of the data folder's clusters

Wall seconds depend on what else the machine does; CPU seconds stand beside them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.paper.cli import reference_objective
from benchmarks.paper.data import PaperSetting, load_settings, load_three_stage
from planner.explain import Infeasible
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Problem
from tests.fixtures.made_problems import MadeSize, made_problem

Row = dict[str, Any]
MANY = (
    MadeSize(gpus=20, classes=3, models=20),
    MadeSize(gpus=40, classes=2, models=20),
    MadeSize(gpus=40, classes=4, models=20),
    MadeSize(gpus=40, classes=6, models=20, max_slices=2),
    MadeSize(gpus=200, classes=3, models=150),
    MadeSize(gpus=200, classes=5, models=150),
)
MANY_SEEDS = (0, 1, 2)
SLO_FACTORS = (1.0, 0.6, 2.0)
"""Of the made SLO: as made, tight, loose."""
LARGE = (MadeSize(gpus=1_000, classes=4, models=12), MadeSize(gpus=10_000, classes=6, models=30))
SEEDS = (0, 1)
WITHOUT_DATA = frozenset({"large", "many"})
"""Sections on made problems alone."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/benchmarks planner", description=__doc__.split("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--data", type=Path, metavar="DIR", help="The paper's figures.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=MANY_SEEDS, help="Of section many.")
    parser.add_argument("--gpus", type=int, nargs="+", help="Of section many: fleets of so many alone.")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"section {unknown[0]!r} is not one of {', '.join(SECTIONS)}")
    wanted = arguments.sections or list(SECTIONS)
    if arguments.data is None and set(wanted) - WITHOUT_DATA:
        parser.error(f"--data DIR: {', '.join(sorted(set(wanted) - WITHOUT_DATA))} needs the paper's figures")
    results: dict[str, list[Row]] = {}
    for name in wanted:
        results[name] = (
            _many(arguments.seeds, arguments.gpus)
            if name == "many"
            else SECTIONS[name](arguments.data or Path())
        )
        if not arguments.json:
            _print(name, results[name])
    if arguments.json:
        print(json.dumps(results, indent=1))
    return 0


def _timed(problem: Problem, planner: str = "ppipe", mode: str = "proven") -> tuple[Plan, Row]:
    wall, cpu = time.perf_counter(), time.process_time()
    made = plan(problem, planner, mode)
    return made, {
        "seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
    }


def _settings(data: Path) -> list[Row]:
    rows: list[Row] = []
    optimum: dict[str, float] = {}
    for planner, mode in (("ppipe", "proven"), ("ppipe", "fast"), ("np", "proven"), ("dart-r", "proven")):
        of_kind = []
        for setting in load_settings(data):
            made, times = _timed(setting.problem, planner, mode)
            if (planner, mode) == ("ppipe", "proven"):
                optimum[setting.name] = made.objective
            of_kind.append(
                _row(setting, planner, made, times) | {"of_optimum": made.objective / optimum[setting.name]}
            )
            of_kind[-1] = {"planner": planner, "mode": mode} | of_kind[-1]
        rows += [*of_kind, _medians(of_kind)]
    return rows


def _row(setting: PaperSetting, planner: str, made: Plan, times: Row) -> Row:
    reference = reference_objective(setting, planner)
    return {
        "problem": setting.name,
        "objective": made.objective,
        "gap": made.gap,
        "ratio": made.objective / reference if reference else None,
        **times,
    }


def _medians(rows: Sequence[Row]) -> Row:
    """A line of medians, of least ratios and largest gaps, under the rows."""
    return rows[0] | {
        "problem": "median s, worst of others",
        "objective": None,
        "gap": max(row["gap"] for row in rows),
        "ratio": min((row["ratio"] for row in rows if row["ratio"]), default=None),
        "seconds": statistics.median(row["seconds"] for row in rows),
        "cpu_seconds": statistics.median(row["cpu_seconds"] for row in rows),
        "of_optimum": min(row.get("of_optimum", 1.0) for row in rows),
    }


def _pairs(data: Path) -> list[Row]:
    return [_gain(setting, pipelines_per_class_pair=1) for setting in load_settings(data)]


def _batches(data: Path) -> list[Row]:
    return [_gain(setting, per_stage_batch=True) for setting in load_settings(data)]


def _gain(setting: PaperSetting, **options: Any) -> Row:
    """The problem as it is beside the problem with these options."""
    usual, usual_times = _timed(setting.problem)
    changed = replace(setting.problem, options=replace(setting.problem.options, **options))
    other, other_times = _timed(changed)
    return {
        "problem": setting.name,
        "objective": usual.objective,
        f"objective with {' '.join(options)}": other.objective,
        "change": other.objective / usual.objective - 1,
        "seconds": usual_times["seconds"],
        "seconds with it": other_times["seconds"],
    }


def _three_stage(data: Path) -> list[Row]:
    rows = []
    for setting in load_three_stage(data):
        made, times = _timed(setting.problem)
        rows.append(_row(setting, "ppipe", made, times))
    return rows


def _large(data: Path) -> list[Row]:
    rows = []
    for size in LARGE:
        for seed in SEEDS:
            made, times = _timed(made_problem(size, seed))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            what = {"gpus": size.gpus, "classes": size.classes, "models": size.models, "seed": seed}
            rows.append({**what, "gap": made.gap, **times, "peak_gib": round(peak, 3)})
    return rows


def _many(seeds: Sequence[int] = MANY_SEEDS, gpus: Sequence[int] | None = None) -> list[Row]:
    """A row per problem; last the largest gap and the longest time over those that have a plan."""
    rows: list[Row] = []
    sizes = [size for size in MANY if gpus is None or size.gpus in gpus]
    for size, seed, factor in itertools.product(sizes, seeds, SLO_FACTORS):
        problem = _with_slo(made_problem(size, seed), factor)
        row: Row = {
            "models": size.models,
            "gpus": size.gpus,
            "classes": size.classes,
            "seed": seed,
            "slo": factor,
        }
        try:
            made, times = _timed(problem)
            row |= {"gap": made.gap, "objective": made.objective, **times, "infeasible": ""}
        except Infeasible as error:
            row |= {"gap": None, "objective": None, "seconds": None, "cpu_seconds": None}
            row["infeasible"] = str(error).split("\n")[0]
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    planned = [row for row in rows if row["gap"] is not None]
    worst = {
        name: max((row[name] for row in planned), default=None) for name in ("gap", "seconds", "cpu_seconds")
    }
    infeasible = f"{len(rows) - len(planned)} of {len(rows)}"
    blank = dict.fromkeys(("models", "gpus", "classes", "seed", "slo", "objective"))
    return [*rows, blank | worst | {"infeasible": infeasible}]


def _with_slo(problem: Problem, factor: float) -> Problem:
    demands = tuple(replace(demand, slo_us=int(demand.slo_us * factor)) for demand in problem.demands)
    return replace(problem, demands=demands)


def _replan(data: Path) -> list[Row]:
    rows: list[Row] = []
    every: list[Row] = []
    for setting in load_settings(data):
        times = _times_after_losses(setting.problem)
        rows.append({"problem": setting.name, "servers": len(times)} | _spread(times))
        every += times
    return [*rows, {"problem": "all", "servers": len(every)} | _spread(every)]


def _times_after_losses(problem: Problem) -> list[Row]:
    """One per server; servers alike leave the same problem, which is planned once."""
    known: dict[tuple[str, int, float], Row] = {}
    times = []
    for lost in problem.cluster.servers:
        kind = (lost.gpu, lost.gpu_count, lost.bandwidth_gbps)
        if kind not in known:
            left = tuple(server for server in problem.cluster.servers if server != lost)
            _, known[kind] = _timed(
                replace(problem, cluster=replace(problem.cluster, servers=left)), mode="fast"
            )
        times.append(known[kind])
    return times


def _spread(times: Sequence[Row]) -> Row:
    row: Row = {}
    for name in ("seconds", "cpu_seconds"):
        values = sorted(spent[name] for spent in times)
        row[f"median_{name}"] = statistics.median(values)
        row[f"p95_{name}"] = values[min(len(values) - 1, int(0.95 * len(values)))]
    return row


SECTIONS: dict[str, Callable[[Path], list[Row]]] = {
    "settings": _settings,
    "pairs": _pairs,
    "three-stage": _three_stage,
    "batches": _batches,
    "large": _large,
    "many": lambda data: _many(),
    "replan": _replan,
}


def _print(title: str, rows: Sequence[Row]) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in rows[0]))
    Console(width=150).print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
