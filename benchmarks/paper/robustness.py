"""scripts/paper robustness: plans searched for jitter and bursts, served under them and without.

Each problem is planned for what PLANNED_FOR says, and each plan is served under its conditions of SERVED, on
seeds that the search never saw. Ratios are to the reference's load under Poisson arrivals without jitter, as
in benchmarks.paper.capacity.

    jitter5_min, jitter5_mean    searched for 5 % jitter, served under it
    jitter10_min, nominal_mean   the same plans under 10 % and without jitter
    cv4_gain                     mean under CV 4, searched for it, over that of plans searched for Poisson
    cv2_mean                     searched for CV 2, served under it
    draws_met, draws_met_min     searched for latencies wrong by up to 15 %: the share of --draws new draws
                                 of the errors in which the guaranteed load is served; of the least model

All of it takes an hour on two cores. With --results FILE what is done is kept there, --stop-after ends early,
and the next run goes on; --only names problems.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.helpers.kept import Kept
from benchmarks.paper.capacity import MOST_STEPS, grid_rps
from benchmarks.paper.data import PaperSetting, grouped_settings
from planner.expectation import Expectation
from planner.serving import ServedModel
from planner.serving_build import served_model
from ppipe.simulation.margin import MarginSearch, auto_margin
from ppipe.simulation.scenarios import scenarios_of, workloads
from python_backend.simulator.capacity import Workload, find_capacity, try_load
from python_backend.simulator.jitter import Jitter

MORE_TO_DO = 3
"""Exit status of a run that was stopped early."""
PLANNED_FOR = {
    "jitter": Expectation(jitter=0.05, slowdown=0.0),
    "poisson": Expectation(jitter=0.0, slowdown=0.0),
    "cv4": Expectation(jitter=0.0, slowdown=0.0, arrivals="gamma:cv=4"),
    "cv2": Expectation(jitter=0.0, slowdown=0.0, arrivals="gamma:cv=2"),
    "wrong": Expectation(jitter=0.0, slowdown=0.15),
}
DRAWS, FIRST_DRAW, DRAW_SECONDS = 20, 501, 10.0
"""Of errors, for each plan that was searched for them."""


@dataclass(frozen=True)
class Conditions:
    """How frames arrive, and how much stage latencies vary."""

    arrivals: str = "poisson"
    jitter: float = 0.0


CONDITIONS = {
    "jitter5": Conditions(jitter=0.05),
    "jitter10": Conditions(jitter=0.1),
    "nominal": Conditions(),
    "cv4": Conditions("gamma:cv=4"),
    "cv2": Conditions("gamma:cv=2"),
}
SERVED = {
    "jitter": ("jitter5", "jitter10", "nominal"),
    "poisson": ("nominal", "cv4"),
    "cv4": ("cv4",),
    "cv2": ("cv2",),
    "wrong": ("draws",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts/paper robustness`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with models.json and settings.json")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1..N (default: 3)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], metavar="PROBLEM", help="such as 0/L4-T4")
    parser.add_argument("--for", dest="planned_for", nargs="+", choices=PLANNED_FOR, default=[*PLANNED_FOR])
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"of wrong latencies (default: {DRAWS})")
    parser.add_argument("--results", type=Path, help="file to keep what is done in, and to go on from")
    parser.add_argument("--stop-after", type=float, metavar="S", help=f"seconds; then status {MORE_TO_DO}")
    parser.add_argument("--json", action="store_true", help="rows, then the figures as the last line")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, return the exit status."""
    settings_of_file = {"seconds": arguments.seconds, "seeds": arguments.seeds}
    if arguments.draws != DRAWS:
        settings_of_file["draws"] = arguments.draws
    kept = Kept(arguments.results, settings_of_file)
    settings = grouped_settings(arguments.data, arguments.only)
    pieces = [(setting, name) for setting in settings for name in arguments.planned_for]
    end = None if arguments.stop_after is None else time.monotonic() + arguments.stop_after
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        left = _measure(pieces, kept, arguments, pool, end)
    rows = [
        row
        for setting, name in pieces
        if key(setting, name) in kept
        for row in kept[key(setting, name)]["rows"]
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        Console(width=100).print(table(rows))
    print(json.dumps(figures(rows)))
    if left:
        print(f"scripts/paper: {left} of {len(pieces)} pieces are left; run it again", file=sys.stderr)
    return MORE_TO_DO if left else 0


def _measure(
    pieces: Sequence[tuple[PaperSetting, str]],
    kept: Kept,
    arguments: argparse.Namespace,
    pool: Executor,
    end: float | None,
) -> int:
    """Measure what is not kept yet, until `end`; how many pieces are left."""
    todo = [piece for piece in pieces if key(*piece) not in kept]
    for done, (setting, name) in enumerate(todo):
        if end is not None and time.monotonic() > end:
            return len(todo) - done
        found = piece(setting, name, arguments, pool)
        kept.add(key(setting, name), found)
        shown = ", ".join(
            f"{row['conditions']} {row['ratio']:.3f}"
            + (f" held in {row['draws_met']:.3f}" if "draws_met" in row else "")
            for row in found["rows"]
        )
        print(f"{key(setting, name)} ({found['search_s']:.0f} s): {shown}", file=sys.stderr, flush=True)
    return 0


def key(setting: PaperSetting, planned_for: str) -> str:
    """The name that a piece's results are kept by."""
    return f"{setting.name}/{planned_for}"


def piece(
    setting: PaperSetting, planned_for: str, arguments: argparse.Namespace, pool: Executor
) -> dict[str, Any]:
    """Plan one problem for one expectation and serve the plan: a row for each model and condition."""
    options = replace(setting.problem.options, expect=PLANNED_FOR[planned_for])
    problem = replace(setting.problem, options=options)
    started = time.monotonic()
    found = auto_margin(problem, processes=arguments.processes, promise=planned_for == "wrong")
    search_s = time.monotonic() - started
    if planned_for == "wrong":
        return {"search_s": round(search_s, 1), "rows": _draws(setting, found, pool, arguments.draws)}
    seeds = tuple(range(1, arguments.seeds + 1))
    jobs = [
        (
            served_model(found.plan, found.problem, demand.model),
            grid_rps(float(setting.reference["ppipe"]["planned_rps"][index]), MOST_STEPS),
            Workload(what.arrivals, arguments.seconds, seeds, Jitter(share=what.jitter)),
        )
        for what in (CONDITIONS[name] for name in SERVED[planned_for])
        for index, demand in enumerate(problem.demands)
    ]
    loads = list(pool.map(_load_rps, jobs))
    references = setting.reference["ppipe"]["load_at_99_rps"] * len(SERVED[planned_for])
    names = [name for name in SERVED[planned_for] for _ in problem.demands]
    rows = [
        {
            "problem": setting.name,
            "model": served.model,
            "planned_for": planned_for,
            "conditions": name,
            "load_rps": load,
            "ratio": load / reference,
        }
        for (served, _, _), load, reference, name in zip(jobs, loads, references, names, strict=True)
    ]
    return {"search_s": round(search_s, 1), "rows": rows}


def _draws(setting: PaperSetting, found: MarginSearch, pool: Executor, draws: int) -> list[dict[str, Any]]:
    """Per model, the share of new draws of errors in which its guaranteed load is served."""
    rows = []
    references = setting.reference["ppipe"]["load_at_99_rps"]
    for model, reference in zip(found.plan.models, references, strict=True):
        assert model.promise is not None
        served, rate_rps = served_model(found.plan, found.problem, model.model), model.promise.guaranteed_rps
        met = workloads(scenarios_of(draws, FIRST_DRAW), found.problem, model, DRAW_SECONDS)
        held = list(pool.map(_is_held, [(served, rate_rps, one) for one in met]))
        rows.append(
            {
                "problem": setting.name,
                "model": model.model,
                "planned_for": "wrong",
                "conditions": "draws",
                "load_rps": rate_rps,
                "ratio": rate_rps / reference,
                "draws_met": sum(held) / len(held),
            }
        )
    return rows


def _is_held(job: tuple[ServedModel, float, Workload]) -> bool:
    served, rate_rps, workload = job
    return try_load(served, "adaptive", rate_rps, workload).attainment is not None


def _load_rps(job: tuple[ServedModel, list[float], Workload]) -> float:
    served, rates, workload = job
    return find_capacity(served, "adaptive", rates, workload, served.planned_rps * 0.9).load_rps


def ratios(rows: Sequence[dict[str, Any]], planned_for: str, conditions: str) -> list[float]:
    """Of all cases planned for the one and served under the other."""
    return [
        row["ratio"] for row in rows if row["planned_for"] == planned_for and row["conditions"] == conditions
    ]


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The figures of the module's docstring, of which there are rows."""
    jitter5, jitter10, nominal, for_cv4, for_poisson, for_cv2 = (
        ratios(rows, *pair)
        for pair in (
            ("jitter", "jitter5"),
            ("jitter", "jitter10"),
            ("jitter", "nominal"),
            ("cv4", "cv4"),
            ("poisson", "cv4"),
            ("cv2", "cv2"),
        )
    )
    found: dict[str, float] = {"cases": len(jitter5 or for_cv4 or for_cv2 or for_poisson)}
    if jitter5:
        found |= {"jitter5_min": min(jitter5), "jitter5_mean": sum(jitter5) / len(jitter5)}
        found |= {"jitter10_min": min(jitter10), "nominal_mean": sum(nominal) / len(nominal)}
    if for_cv4 and len(for_cv4) == len(for_poisson):
        found["cv4_gain"] = sum(for_cv4) / sum(for_poisson)
    if wrong := [row["draws_met"] for row in rows if row["planned_for"] == "wrong"]:
        found |= {"draws_met": sum(wrong) / len(wrong), "draws_met_min": min(wrong)}
    if for_cv2:
        found["cv2_mean"] = sum(for_cv2) / len(for_cv2)
    return {name: round(value, 4) for name, value in found.items()}


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """What was planned for and served under, down: mean and least ratio, and the case of the least."""
    made = Table(title="load at 99 % attainment over the reference's")
    for name in ("planned for", "served under", "cases", "mean", "least", "which"):
        made.add_column(name, justify="left" if name in ("planned for", "served under", "which") else "right")
    for planned_for, conditions in _pairs():
        mine = [row for row in rows if (row["planned_for"], row["conditions"]) == (planned_for, conditions)]
        if mine:
            least = min(mine, key=lambda row: float(row["ratio"]))
            mean = sum(row["ratio"] for row in mine) / len(mine)
            which = f"{least['problem']} {least['model'][:24]}"
            cells = [str(len(mine)), f"{mean:.3f}", f"{least['ratio']:.3f}", which]
            made.add_row(planned_for, conditions, *cells)
    return made


def _pairs() -> Iterator[tuple[str, str]]:
    return ((name, conditions) for name, all_of in SERVED.items() for conditions in all_of)
