"""A testbed of 16 emulated GPUs (4 fast, 12 slow) on 4 real tritonservers: measured beside simulated.

One Poisson trace per load is replayed through PPipe's plan (live and simulated) and through NP's plan with
the same dispatcher; benchmarks/balancers.py has plain Triton. Both plans have the margin under which they
serve most in simulation. The simulator knows no host, so two times are fitted on a run of their own, on
another trace: what frames lose outside of stages and planned hops (median of measured less simulated
latency), which is taken off the SLO by which simulated frames are judged; and what the dispatcher keeps free
before deadlines because hops and answers are late now and then (its own metrics, median of the run), which is
taken off the deadlines that the simulated core is given.
Capacity is the load at which attainment falls through 99 %, between the points of one sweep, measured and
simulated on the same traces. Everything here is emulated: workers are held for profiled times and compute
nothing.

A point during which the whole host was busier than 70 % says more of other programs than of this one: it is
told, and measured again.

With --results FILE points are kept, and those that are there are not measured again; --most N measures at
most N new ones and tells what is left.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.helpers.kept import Kept
from benchmarks.helpers.report import main
from benchmarks.helpers.testbed.plan import best_plan, make_entry, make_problem, simulated_capacity
from benchmarks.helpers.testbed.points import Point, discarded, key_of, measure, point_from, trace_of
from benchmarks.helpers.testbed.system import System
from planner.serving import ServedModel
from python_backend.scheduler.core import SchedulerCore
from python_backend.simulator.driver import SimulatedDriver

_FIT = "fit"
_FIT_LOAD = 0.7
_FIT_FRAMES = 2_000
_TARGET = 0.99
_BOOTSTRAPS = 1_000
_PPIPE, _NP = "ppipe", "np"


@dataclass(frozen=True)
class Fitted:
    """See the module: what frames lose on the host, and what the dispatcher keeps free before deadlines."""

    overhead_us: int
    reserve_us: int


def run(
    loads: tuple[float, ...] = (0.5, 0.7, 0.9),
    sweep: tuple[float, ...] = (0.95, 1.0, 1.05, 1.1),
    frames: int = 10_000,
    sweep_frames: int = 6_000,
    other_frames: int = 3_000,
    slowdown: float = 1.0,
    seed: int = 1,
    results: str = "",
    most: int = 1_000,
) -> Mapping[str, Any]:
    """The figures of this benchmark. `loads` and `sweep`: shares of the simulated capacity. The other systems
    get the first `other_frames` frames of the traces of `loads`.
    """
    problem = make_problem(slowdown)
    plan, served = best_plan(problem, "ppipe")
    np_plan, np_served = best_plan(problem, "np")
    systems = {
        _PPIPE: System(make_entry(problem, plan, served, feedback_port=0)),
        _NP: System(make_entry(problem, np_plan, np_served, feedback_port=0)),
    }
    capacity_rps = simulated_capacity(served)
    traces = {load: trace_of(load * capacity_rps, frames, seed) for load in loads}
    traces |= {load: trace_of(load * capacity_rps, sweep_frames, seed) for load in sweep}
    fit = trace_of(_FIT_LOAD * capacity_rps, _FIT_FRAMES, seed + 1)
    settings: dict[str, Any] = {
        "frames": frames,
        "sweep_frames": sweep_frames,
        "slowdown": slowdown,
        "seed": seed,
    }
    settings |= {"other_frames": other_frames, "fit": [_FIT_LOAD, _FIT_FRAMES], "capacity_rps": capacity_rps}
    points = Kept(Path(results) if results else None, settings)
    wanted: dict[str, dict[Any, list[int]]] = {
        name: {load: traces[load][:other_frames] for load in loads} for name in systems
    }
    wanted[_PPIPE] = {_FIT: fit} | traces
    left = measure(systems, wanted, points, most)
    again = discarded(points, served.slo_us)
    if left:
        return {"emulated": True, "left": left, "discarded": again}
    fitted = _fitted(point_from(points[key_of(_PPIPE, _FIT)]), served, fit)
    shown = [_point(load, traces[load], points, served, fitted) for load in (*loads, *sweep)]
    return {
        "emulated": True,
        "workers": sum(len(stage.workers) for pipe in served.pipelines for stage in pipe.stages),
        "planned_rps": round(served.planned_rps, 1),
        "np_planned_rps": round(np_served.planned_rps, 1),
        "slo_ms": served.slo_us / 1000,
        "fitted_overhead_ms": round(fitted.overhead_us / 1000, 2),
        "fitted_reserve_ms": round(fitted.reserve_us / 1000, 2),
        "frames_per_point": frames,
        "points": [
            each | _others(points, each["load_factor"], served.slo_us) for each in shown[: len(loads)]
        ],
        "sweep": shown[len(loads) :],
        "discarded": again,
        "searched_capacity_rps": round(capacity_rps, 1),
        "simulated_capacity_rps": _crossing(shown, "simulated_attainment"),
        "measured_capacity_rps": _crossing(shown, "measured_attainment"),
    }


def _fitted(point: Point, served: ServedModel, trace: Sequence[int]) -> Fitted:
    """Median of measured less simulated latency, frame by frame, and what the dispatcher kept free."""
    extra = [
        measured_us - simulated_us
        for measured_us, simulated_us in zip(point.latency_us, _simulate(served, trace), strict=True)
        if measured_us is not None and simulated_us is not None
    ]
    return Fitted(overhead_us=max(0, round(statistics.median(extra))), reserve_us=point.reserve_us)


def _simulated_in_time(served: ServedModel, trace: Sequence[int], fitted: Fitted) -> list[bool]:
    """Per frame, whether the simulator serves it within the SLO."""
    reserve_us = max(fitted.overhead_us, fitted.reserve_us)
    planned = dataclasses.replace(served, slo_us=served.slo_us - reserve_us)
    judged_us = served.slo_us - fitted.overhead_us
    return [us is not None and us <= judged_us for us in _simulate(planned, trace)]


def _simulate(served: ServedModel, trace: Sequence[int]) -> list[int | None]:
    """Latency of each frame on virtual time; None for a dropped one."""
    latencies: list[int | None] = [None] * len(trace)
    batches: dict[int, tuple[tuple[int, ...], int]] = {}
    """Frames and last stage of each batch under way."""

    def observe(event: Any, now_us: int, actions: Sequence[Any]) -> None:
        for action in actions:
            if hasattr(action, "ticket"):
                batches[action.ticket.batch_id] = (action.request_ids, len(action.ticket.hops) - 1)
        stage = getattr(event, "stage", None)
        if stage is not None and event.batch_id in batches and batches[event.batch_id][1] == stage:
            for request_id in batches.pop(event.batch_id)[0]:
                latencies[request_id] = event.ended_us - trace[request_id]

    SimulatedDriver(served, SchedulerCore(served), observe=observe).run(iter(trace))
    return latencies


def _point(
    load: float, trace: Sequence[int], points: Kept, served: ServedModel, fitted: Fitted
) -> dict[str, Any]:
    point = point_from(points[key_of(_PPIPE, load)])
    measured = point.in_time(served.slo_us)
    simulated = _simulated_in_time(served, trace, fitted)
    low, high = _paired_interval(measured, simulated)
    return {
        "load_factor": load,
        "rate_rps": round(len(trace) / (trace[-1] / 1e6), 1),
        "frames": len(trace),
        "simulated_attainment": round(statistics.mean(simulated), 4),
        "measured_attainment": round(statistics.mean(measured), 4),
        "difference_95": [round(low, 4), round(high, 4)],
        "unanswered": point.unanswered,
        "wrong": point.wrong,
        "duplicate": point.duplicate,
        "late_sends": point.late_sends,
        "reserve_ms": round(point.reserve_us / 1000, 2),
        "host_busy_share": round(point.busy_share, 3),
        "servers_cpu_share": round(point.servers_share, 3),
    }


def _others(points: Kept, load: float, slo_us: int) -> dict[str, float]:
    in_time = point_from(points[key_of(_NP, load)]).in_time(slo_us)
    return {f"{_NP}_attainment": round(statistics.mean(in_time), 4)}


def _paired_interval(measured: Sequence[bool], simulated: Sequence[bool]) -> tuple[float, float]:
    """95 % bootstrap interval of measured less simulated attainment, over blocks of neighbouring frames."""
    difference = np.array(measured, float) - np.array(simulated, float)
    blocks = np.array([part.mean() for part in np.array_split(difference, min(50, len(difference)))])
    rng = np.random.default_rng(0)
    means = rng.choice(blocks, (_BOOTSTRAPS, len(blocks))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _crossing(points: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The rate at which attainment falls through the target, on the line between the two points around it;
    None when no point is below it, or the first one is.
    """
    ordered = sorted(points, key=lambda each: float(each["rate_rps"]))
    for before, after in itertools.pairwise(ordered):
        above, below = float(before[key]), float(after[key])
        if above >= _TARGET > below:
            share = (above - _TARGET) / (above - below)
            start_rps, end_rps = float(before["rate_rps"]), float(after["rate_rps"])
            return round(start_rps + share * (end_rps - start_rps), 1)
    return None


if __name__ == "__main__":
    main(
        __doc__,
        run,
        loads=(0.5, 0.7, 0.9),
        sweep=(0.95, 1.0, 1.05, 1.1),
        frames=10_000,
        sweep_frames=6_000,
        other_frames=3_000,
        slowdown=1.0,
        seed=1,
        results="",
        most=1_000,
    )
