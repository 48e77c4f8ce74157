"""The testbed's plan beside plain Triton behind four load balancers, on real tritonservers.

PPipe's plan has all 16 emulated GPUs. Plain Triton has the whole model, dynamically batched, on every GPU
that meets the SLO alone, behind a client that balances (benchmarks/helpers/loads/balanced.py). For each
balancer the batch delay and the largest batch that serve most are found in simulation, on a seed of their
own; so is PPipe's margin. Triton rejects what could not end in time any more, which spares it lost work.

Loads are shares of what PPipe's plan serves at 99 % in simulation. At each, every seed is a trace that all
systems replay; `ratio` is PPipe's frames in time over those of a balancer, with the 95 % interval of its
mean over seeds (Student's t). `best`: over the balancer that served most of that trace.

With --results FILE points are kept, and those that are there are not measured again; --most N measures at
most N new ones and tells what is left. A point during which the whole host was busier than --most-busy is
measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.helpers.kept import Kept
from benchmarks.helpers.loads.balanced import PlainSetting
from benchmarks.helpers.report import main
from benchmarks.helpers.testbed.plan import best_plan, make_entry, make_problem, simulated_capacity
from benchmarks.helpers.testbed.points import (
    MOST_BUSY,
    Point,
    discarded,
    key_of,
    measure,
    point_from,
    trace_of,
)
from benchmarks.helpers.testbed.system import System, whole_workers
from benchmarks.paper.baselines import best_batching, interval
from planner.manifest import ModelEntry
from python_backend.simulator.plain import BALANCERS, Balancer

_PPIPE = "ppipe"
_GRID = 100
_BEST = "best"


def run(
    loads: tuple[float, ...] = (0.5, 0.7, 0.9),
    frames: int = 1_500,
    seeds: int = 3,
    slowdown: float = 1.0,
    results: str = "",
    most: int = 1_000,
    most_busy: float = MOST_BUSY,
) -> Mapping[str, Any]:
    """The figures of this benchmark. frames: of each trace."""
    problem = make_problem(slowdown)
    plan, served = best_plan(problem, "ppipe")
    np_plan, np_served = best_plan(problem, "np")
    whole = make_entry(problem, np_plan, np_served, feedback_port=0)
    capacity_rps = simulated_capacity(served)
    rates = [capacity_rps * step / _GRID for step in range(5, 2 * _GRID)]
    settings = {name: best_setting(whole, name, rates) for name in BALANCERS}
    systems = {_PPIPE: System(make_entry(problem, plan, served, feedback_port=0))}
    systems |= {name: System(whole, setting) for name, setting in settings.items()}
    traces = {
        f"{load}/{seed}": trace_of(load * capacity_rps, frames, seed)
        for load in loads
        for seed in range(1, seeds + 1)
    }
    points = Kept(
        Path(results) if results else None,
        {"frames": frames, "slowdown": slowdown, "capacity_rps": capacity_rps},
    )
    left = measure(systems, dict.fromkeys(systems, traces), points, most, most_busy)
    told: dict[str, Any] = {"emulated": True, "discarded": discarded(points, served.slo_us)}
    if left:
        return told | {"left": left}
    names = [f"{load}/{seed}" for load in loads for seed in range(1, seeds + 1)]
    measured = {
        system: {name: point_from(points[key_of(system, name)]) for name in names} for system in systems
    }
    return told | {
        "simulated_capacity_rps": round(capacity_rps, 1),
        "workers": {_PPIPE: sum(1 for _ in served.workers()), "plain": len(whole_workers(whole))},
        "settings": {
            name: {"delay_ms": one.delay_us / 1000, "max_batch": one.max_batch}
            for name, one in settings.items()
        },
        "points": [
            _row(load, round(load * capacity_rps, 1), measured, seeds, served.slo_us) for load in loads
        ],
    }


def best_setting(whole: ModelEntry, balancer: Balancer, rates: Sequence[float]) -> PlainSetting:
    """What serves most in simulation, of workers of whole models."""
    workers = [each.latency_us for each in whole_workers(whole)]
    delay_us, fleet = best_batching(whole.served, workers, balancer, rates)
    return PlainSetting(balancer, delay_us, max(len(each.latency_us) for each in fleet))


def _row(
    load: float, rate_rps: float, measured: Mapping[str, Mapping[str, Point]], seeds: int, slo_us: int
) -> dict[str, Any]:
    """One load: what of its frames was in time with each system, and the ratios."""
    shares = {
        system: [fmean(points[f"{load}/{seed}"].in_time(slo_us)) for seed in range(1, seeds + 1)]
        for system, points in measured.items()
    }
    there = [points[f"{load}/{seed}"] for points in measured.values() for seed in range(1, seeds + 1)]
    return {
        "load_factor": load,
        "rate_rps": rate_rps,
        "attainment": {system: round(fmean(each), 4) for system, each in shares.items()},
        "ratio": ratios(shares.pop(_PPIPE), shares),
        "wrong": sum(point.wrong for point in there),
        "unanswered": sum(point.unanswered for point in there),
        "late_sends": sum(point.late_sends for point in there),
        "host_busy_share": round(fmean(point.busy_share for point in there), 3),
    }


def ratios(ours: Sequence[float], theirs: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """By balancer, and over the best of them seed by seed: mean ratio, and half of its 95 % interval."""
    best = [max(each) for each in zip(*theirs.values(), strict=True)]
    found = {}
    for name, each in ({_BEST: best} | dict(theirs)).items():
        mean, half = interval([mine / other for mine, other in zip(ours, each, strict=True)])
        found[name] = [round(mean, 4), round(half, 4)]
    return found


if __name__ == "__main__":
    main(
        __doc__,
        run,
        loads=(0.5, 0.7, 0.9),
        frames=1_500,
        seeds=3,
        slowdown=1.0,
        results="",
        most=1_000,
        most_busy=MOST_BUSY,
    )
