"""scripts/paper baselines: our plans beside plain Triton behind four load balancers, on the same traces.

Baseline: every GPU that can meet the SLO alone serves one model whole (NP's division of the GPUs among the
models, without a margin), with dynamic batching and a queue timeout (python_backend.simulator.plain). For
each balancer the largest batch and the batch delay are found by search on seeds of their own. Ours: planned
for Poisson arrivals, served by `adaptive`. Load: the highest at 99 % attainment, in steps of 1 % of the
reference's planned rate.

Every seed is a pair: the same trace for both. `ratio` is ours over the best of the four, with a 95 %
interval of the mean over seeds (Student's t).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.helpers.kept import Kept
from benchmarks.paper.data import PaperSetting, grouped_settings
from benchmarks.paper.robustness import MORE_TO_DO, PLANNED_FOR
from planner.plan import ModelPlan
from planner.planning import plan
from planner.problem import Demand, Problem
from planner.rates import stage_latency_us
from planner.serving import ServedModel
from planner.serving_build import served_model
from ppipe.simulation.margin import auto_margin
from python_backend.simulator.arrivals import parse_arrivals
from python_backend.simulator.capacity import TARGET, Workload, find_capacity, highest_reached
from python_backend.simulator.plain import BALANCERS, Balancer, PlainFleet, PlainWorker

STEP = 0.01
DELAYS = (0.0, 0.03, 0.1)
"""Shares of the SLO that a batch may be waited for."""
BATCH_SHARES = (0.4, 0.6, 0.8)
"""The largest batch takes at most this share of the SLO, its delay included."""
SEARCH_SEED, SEARCH_SECONDS = 90_001, 8.0
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}
"""Two-sided 95 %, by the number of seeds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts/paper baselines`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with models.json and settings.json")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, choices=sorted(STUDENT_T), default=3, help="seeds 1..N")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], metavar="PROBLEM", help="such as 0/L4-T4")
    parser.add_argument("--results", type=Path, help="file to keep what is done in, and to go on from")
    parser.add_argument("--stop-after", type=float, metavar="S", help=f"seconds; then status {MORE_TO_DO}")
    parser.add_argument("--json", action="store_true", help="rows, then the figures as the last line")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, return the exit status."""
    kept = Kept(arguments.results, {"seconds": arguments.seconds, "seeds": arguments.seeds})
    settings = grouped_settings(arguments.data, arguments.only)
    end = None if arguments.stop_after is None else time.monotonic() + arguments.stop_after
    left = 0
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for setting in settings:
            if setting.name in kept:
                continue
            if end is not None and time.monotonic() > end:
                left += 1
                continue
            jobs = [(job, arguments.seconds, arguments.seeds) for job in _cases(setting, arguments.processes)]
            rows = list(pool.map(_measure, jobs))
            kept.add(setting.name, {"rows": rows})
            shown = ", ".join(f"{row['ratio']:.3f}" for row in rows)
            print(f"{setting.name}: {shown}", file=sys.stderr, flush=True)
    rows = [row for one in settings if one.name in kept for row in kept[one.name]["rows"]]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        Console(width=100).print(table(rows))
    print(json.dumps(figures(rows)))
    return MORE_TO_DO if left else 0


Case = tuple[str, str, ServedModel, list[tuple[int, ...]], float]
"""Problem, model, our plan of it, per worker of the baseline its latencies, the reference's planned rate."""


def _cases(setting: PaperSetting, processes: int) -> list[Case]:
    problem = replace(
        setting.problem, options=replace(setting.problem.options, expect=PLANNED_FOR["poisson"])
    )
    found = auto_margin(problem, processes=processes, promise=False)
    whole = replace(problem.options, slo_margin=0.0, batch_build_factor=0.0)
    alone = plan(replace(problem, options=whole), "np")
    return [
        (
            setting.name,
            demand.model,
            served_model(found.plan, found.problem, demand.model),
            plain_workers(problem, demand, alone.model(demand.model)),
            float(setting.reference["ppipe"]["planned_rps"][index]),
        )
        for index, demand in enumerate(problem.demands)
    ]


def plain_workers(problem: Problem, demand: Demand, alone: ModelPlan) -> list[tuple[int, ...]]:
    """Of every GPU that the model gets: microseconds by batch size."""
    profile = problem.profile.model(demand.model)
    workers = []
    for pipeline in alone.pipelines:
        (stage,) = pipeline.stages
        table = profile.table(stage.gpu, stage.slices_per_gpu)
        assert table is not None
        latency_us = tuple(
            math.ceil(
                stage_latency_us(profile, 0, profile.block_count, stage.gpu, stage.slices_per_gpu, size)
            )
            for size in table.batch_sizes
        )
        workers += [latency_us] * stage.workers
    return workers


def _measure(job: tuple[Case, float, int]) -> dict[str, Any]:
    (problem, model, served, workers, planned_rps), seconds, seeds = job
    rates = [planned_rps * STEP * step for step in range(5, 301)]
    traces = [Workload("poisson", seconds, (seed,)) for seed in range(1, seeds + 1)]
    ours = [find_capacity(served, "adaptive", rates, trace, served.planned_rps).load_rps for trace in traces]
    theirs = {name: baseline_rps(served, workers, name, rates, seconds, seeds) for name in BALANCERS}
    best = [max(theirs[name][seed] for name in BALANCERS) for seed in range(seeds)]
    return {
        "problem": problem,
        "model": model,
        "ours_rps": ours,
        "baselines_rps": theirs,
        "ratios": [a / b if b else math.inf for a, b in zip(ours, best, strict=True)],
        "ratio": fmean(ours) / fmean(best) if fmean(best) else math.inf,
    }


def baseline_rps(
    served: ServedModel,
    workers: Sequence[tuple[int, ...]],
    balancer: Balancer,
    rates: Sequence[float],
    seconds: float,
    seeds: int,
) -> list[float]:
    """Load at 99 % of each seed, with the delay and the largest batch that served most on another seed."""
    if not workers:
        return [0.0] * seeds
    delay_us, fleet = best_batching(served, workers, balancer, rates)
    return [_load(served, fleet, balancer, delay_us, rates, seconds, seed) for seed in range(1, seeds + 1)]


def best_batching(
    served: ServedModel, workers: Sequence[tuple[int, ...]], balancer: Balancer, rates: Sequence[float]
) -> tuple[int, list[PlainWorker]]:
    """The batch delay, and workers with the largest batches, that serve most on a seed for searching."""
    found = [
        (_load(served, fleet, balancer, delay_us, rates, SEARCH_SECONDS, SEARCH_SEED), delay_us, fleet)
        for share in BATCH_SHARES
        for delay_us in sorted({round(delay * served.slo_us) for delay in DELAYS})
        if (fleet := _limited(workers, round(share * served.slo_us) - delay_us))
    ]
    _, delay_us, fleet = max(found, key=lambda one: one[0])
    return delay_us, fleet


def _limited(workers: Sequence[tuple[int, ...]], most_us: int) -> list[PlainWorker]:
    """Workers with the batches that take no longer than this; one frame is always a batch."""
    return [
        PlainWorker(tuple(us for size, us in enumerate(each) if size == 0 or us <= most_us))
        for each in workers
    ]


def _load(
    served: ServedModel,
    fleet: Sequence[PlainWorker],
    balancer: Balancer,
    delay_us: int,
    rates: Sequence[float],
    seconds: float,
    seed: int,
) -> float:
    """The highest of the rates that is served at 99 %."""

    def reached(index: int) -> bool:
        process = parse_arrivals("poisson", rates[index])
        times = list(process.times_us(seconds, seed, served.model))
        most = int((1 - TARGET) * len(times) + 1e-9)
        plain = PlainFleet(fleet, balancer, delay_us, seed, rejects=True)
        return plain.missed(times, served.slo_us, most) <= most

    guess = sum(1e6 * len(each.latency_us) / each.latency_us[-1] for each in fleet) * 0.8
    index = highest_reached(rates, guess, reached)
    return rates[index] if index >= 0 else 0.0


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds, and half the width of its 95 % interval."""
    half = (
        STUDENT_T[len(values)] * stdev(values) / math.sqrt(len(values)) if len(values) in STUDENT_T else 0.0
    )
    return fmean(values), half


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over the cases: ours over each balancer and the best of them, mean and half interval over seeds."""
    if not rows:
        return {"cases": 0}
    seeds = range(len(rows[0]["ours_rps"]))

    def over(name: str) -> list[float]:
        by_seed = []
        for seed in seeds:
            pairs = [(row["ours_rps"][seed], row["baselines_rps"][name][seed]) for row in rows]
            by_seed.append(fmean(ours / theirs for ours, theirs in pairs if theirs))
        return by_seed

    finite = [row for row in rows if all(map(math.isfinite, row["ratios"]))] or list(rows)
    best = [fmean(row["ratios"][seed] for row in finite) for seed in seeds]
    found: dict[str, Any] = {"cases": len(rows), "least_ratio": round(min(row["ratio"] for row in rows), 4)}
    for name, values in (("best", best), *((name, over(name)) for name in BALANCERS)):
        mean, half = interval(values)
        found[name] = {"mean_ratio": round(mean, 4), "half_interval": round(half, 4)}
    return found


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """A case a line: mean load over seeds of ours and of each balancer."""
    made = Table(title="load at 99 %, frames/s, mean over seeds")
    for name in ("problem", "model", "ours", *BALANCERS, "ours / best"):
        made.add_column(name, justify="left" if name in ("problem", "model") else "right", overflow="fold")
    for row in rows:
        loads = [f"{fmean(row['baselines_rps'][name]):.0f}" for name in BALANCERS]
        cells = [row["problem"], row["model"][:20], f"{fmean(row['ours_rps']):.0f}", *loads]
        made.add_row(*cells, f"{row['ratio']:.3f}")
    return made
