"""Cascades: planned together against the same models apart, and their SLO's division against all divisions.

Simulated: arrivals are Poisson, a detector's frame makes 0 to 20 crops. `gain_over_apart` is the load of
which 99 % of the frames are complete, over what the same GPUs carry with both models behind BLS on one Triton
server (helpers.cascades.apart), whose GPUs, delays and time-outs are searched on the same arrivals. Our
plan is the one that `ppipe plan --margin auto` finds, on arrivals of its own.

On real tritonservers with emulated workers, at loads that are shares of what the simulation serves: how many
frames were complete in time, and how many of the same arrivals, with the same crops, are in simulation.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.helpers.cascades.apart import best_apart
from benchmarks.helpers.cascades.live import measure_live
from benchmarks.helpers.report import main
from planner.cascades.data import Cascade, Fanout, Member
from planner.cascades.demands import divided
from planner.cascades.outlook import Outlook
from planner.explain import Infeasible
from planner.planning import plan
from planner.problem import Problem
from ppipe.simulation.cascade_margin import best_of_cascades
from ppipe.simulation.cascades import cascade_capacities, simulate_cascades
from python_backend.simulator.capacity import Workload
from tests.fixtures.made_problems import MadeSize, made_problem

CROPS = Fanout(mean=4.0, deviation=4.0, most=20)
FEW = Fanout(mean=2.0, deviation=1.0, most=6)
"""Of small cases, whose five GPUs are soon full."""
_GPUS, _CLASSES = 12, 2
_SMALL = MadeSize(gpus=5, classes=2, models=2, blocks=3, max_slices=1)
LOADS = (0.7, 0.9)
"""Of what the simulation serves, on real servers."""
_GRID = 0.0025
"""Of the planned rate, to which capacities are found."""
_BUILD_RPS = 200.0
"""At which batches fill, of small cases: fixed, so that all divisions are measured alike."""


def run(
    fleets: int = 3,
    small: int = 6,
    seconds: float = 10.0,
    seed: int = 1,
    live_seconds: float = 60.0,
    gpus: int = _GPUS,
    classes: int = _CLASSES,
) -> Mapping[str, Any]:
    """The figures of this benchmark. fleets, small: how many made problems of each kind; live_seconds: of
    each load on real servers, 0 for none; gpus, classes: of each fleet.
    """
    if fleets < 1 and small < 1 and live_seconds <= 0:
        raise ValueError("fleets 0, small 0, live_seconds 0: nothing to measure; give one of them above 0")
    size = MadeSize(gpus=gpus, classes=classes, models=2, blocks=6, max_slices=2)
    rows = [_compared(size, seed + number, seconds) for number in range(fleets)]
    gaps = [_division_gap(seed + number) for number in range(small)]
    live = measure_live(CROPS, LOADS, live_seconds) if live_seconds > 0 else []
    figures: dict[str, Any] = {"fleets": rows, "live": [dataclasses.asdict(row) for row in live]}
    if rows:
        figures["gain_least"] = min(row["gain"] for row in rows)
        figures["gain_over_apart"] = round(statistics.geometric_mean(row["gain"] for row in rows), 3)
    if gaps:
        figures["slo_division_gap"] = round(max(gaps), 5)
    if live:
        figures["simulated_against_measured"] = max(
            round(abs(row.measured - row.simulated), 2) for row in live
        )
    partial = [row["partial_share"] for row in rows] + [row.partial / row.offered for row in live]
    figures["parents_unanswered"] = sum(row["unanswered"] for row in rows) + sum(
        row.unanswered for row in live
    )
    figures["partial_share"] = round(max(partial, default=0.0), 5)
    return figures


def cascaded(size: MadeSize, seed: int, crops: Fanout) -> Problem:
    """A made problem whose first model feeds the second; SLO: what both had together."""
    problem = made_problem(size, seed)
    first, second = problem.demands
    members = (Member(first.model), Member(second.model, first.model, crops, "crops"))
    cascade = Cascade("crops", first.slo_us + second.slo_us, members, weight=1.0)
    return dataclasses.replace(problem, cascades=(cascade,))


def _compared(size: MadeSize, seed: int, seconds: float) -> dict[str, Any]:
    """One fleet: capacities of the cascade, and of the models apart, on the same arrivals."""
    problem = cascaded(size, seed, CROPS)
    workload = Workload(seconds=seconds, seeds=(1, 2))
    began_s, began_cpu_s = time.monotonic(), _cpu_s()
    chosen, made, tried = best_of_cascades(problem, links="placed")
    search_s, search_cpu_s = time.monotonic() - began_s, _cpu_s() - began_cpu_s
    best = cascade_capacities(made, chosen, workload, "placed", _GRID)["crops"]
    apart_rps = best_apart(problem, workload, best)
    (served,) = simulate_cascades(made, chosen, None, best, workload, "placed")
    ends = served.complete + served.partial + served.declined + served.superseded
    return {
        "seed": seed,
        "together_rps": round(best, 2),
        "apart_rps": round(apart_rps, 2),
        "gain": round(best / apart_rps, 3) if apart_rps else float("inf"),
        "found_rps": round(tried[-1].score, 2),
        "search_s": round(search_s, 1),
        "search_cpu_s": round(search_cpu_s, 1),
        "unanswered": served.offered - ends,
        "partial_share": served.partial / served.offered,
    }


def _cpu_s() -> float:
    """Of this process and those that it has waited for."""
    used = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _division_gap(seed: int) -> float:
    """How much better the best of all divisions is than the one found, as a share."""
    problem = cascaded(_SMALL, seed, FEW)
    demands = tuple(dataclasses.replace(one, batch_build_rps=_BUILD_RPS) for one in problem.demands)
    problem = dataclasses.replace(problem, demands=demands)
    (cascade,) = problem.cascades
    first, second = (member.model for member in cascade.members)
    found, best = plan(problem).objective, 0.0
    for part in map(int, Outlook(problem).steps(first)):
        if part < cascade.slo_us:
            try:
                parts = {first: part, second: cascade.slo_us - part}
                best = max(best, plan(divided(problem, parts)).objective)
            except Infeasible:
                continue
    return max(0.0, 1 - found / best)


if __name__ == "__main__":
    main(
        "Cascades planned together and apart, and how well their SLO is divided.",
        run,
        fleets=3,
        small=6,
        seconds=10.0,
        seed=1,
        live_seconds=60.0,
        gpus=_GPUS,
        classes=_CLASSES,
    )
