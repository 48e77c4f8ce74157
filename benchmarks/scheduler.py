"""Cost of one scheduling decision, and how it grows with the number of workers.

A made two-stage model near its capacity is simulated while every handle(RequestArrived) is timed on the
thread's CPU clock. Cost per frame is the CPU time of all decisions (arrivals, completions, timers) over the
frames.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.simulator import two_stages, yardstick
from python_backend.compiled import IS_COMPILED
from python_backend.scheduler.actions import Action
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event, RequestArrived
from python_backend.simulator.capacity import Workload
from python_backend.simulator.driver import SimulatedDriver

WORKERS = (100, 400, 1_000, 4_000, 10_000)
FRAMES = 40_000
LOAD = 0.97


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/benchmarks scheduler", description=__doc__.split("\n")[0])
    parser.add_argument("--policy", default="adaptive")
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    rows = [measure(workers, arguments.policy) for workers in arguments.workers]
    first = rows[0]
    for row in rows:
        growth = row["cost_us_per_frame"] / first["cost_us_per_frame"]
        row["growth"] = round(growth, 2)
        row["growth_of_logarithm"] = round(math.log(row["workers"]) / math.log(first["workers"]), 2)
    result = {"compiled": IS_COMPILED, "policy": arguments.policy, "yardstick_turns_per_cpu_s": yardstick()}
    if arguments.json:
        print(json.dumps(result | {"cases": rows}, indent=1))
        return 0
    print(json.dumps(result))
    for row in rows:
        print(json.dumps(row))
    return 0


def measure(workers: int, policy: str) -> dict[str, Any]:
    """One cluster: 3/4 of the workers in the first pool, 1/4 in the second."""
    served = two_stages(workers * 3 // 4, workers - workers * 3 // 4)
    rate_rps = LOAD * served.planned_rps
    times = Workload(seconds=FRAMES / rate_rps).times_us(rate_rps, 1, served.model)
    events: list[tuple[Event, int]] = []

    def record(event: Event, now_us: int, actions: list[Action]) -> None:
        del actions
        events.append((event, now_us))

    SimulatedDriver(served, SchedulerCore(served, policy), observe=record).run(iter(times))
    arrivals_ns = _time_arrivals(SchedulerCore(served, policy), events)
    core = SchedulerCore(served, policy)
    gc.collect()
    gc.disable()
    started = time.process_time()
    for event, now_us in events:
        core.handle(event, now_us)
    cost_s = time.process_time() - started
    gc.enable()
    arrivals_ns.sort()
    return {
        "workers": workers,
        "cost_us_per_frame": round(cost_s * 1e6 / len(times), 3),
        "arrival_p50_us": arrivals_ns[len(arrivals_ns) // 2] / 1e3,
        "arrival_p99_us": arrivals_ns[len(arrivals_ns) * 99 // 100] / 1e3,
    }


def _time_arrivals(core: SchedulerCore, events: Sequence[tuple[Event, int]]) -> list[int]:
    """CPU nanoseconds of every handle(RequestArrived)."""
    taken = []
    for event, now_us in events:
        if isinstance(event, RequestArrived):
            started = time.thread_time_ns()
            core.handle(event, now_us)
            taken.append(time.thread_time_ns() - started)
        else:
            core.handle(event, now_us)
    return taken


if __name__ == "__main__":
    sys.exit(main())
