"""Speed of the simulator: frames per CPU second of its event loop, beside a bare heapq loop in the same run.

Arrivals are made beforehand; policy adaptive, metrics on. With --data the two-stage settings of the paper's
figures run their reference plans at the reference's loads; else a made cluster of 100 GPUs. The yardstick
is a loop of one heap pop and one push per turn: it says how fast this machine was just now.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.data import load_settings, reference_plan
from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from planner.serving_build import served_model
from python_backend.compiled import IS_COMPILED
from python_backend.scheduler.core import SchedulerCore
from python_backend.simulator.capacity import Workload
from python_backend.simulator.driver import SimulatedDriver

YARDSTICK_TURNS = 300_000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/benchmarks simulator", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with models.json and settings.json")
    parser.add_argument("--policy", default="adaptive")
    parser.add_argument("--seconds", type=float, default=30.0, help="simulated time of one run")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each case; the fastest counts")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    cases = _paper_cases(arguments.data) if arguments.data else iter([("made", two_stages(75, 25), 2_400.0)])
    rows = [
        _measure(name, served, rate, arguments.policy, arguments.seconds, arguments.repeat)
        for name, served, rate in cases
    ]
    speeds = [row["frames_per_cpu_s"] for row in rows]
    result = {
        "compiled": IS_COMPILED,
        "policy": arguments.policy,
        "frames_per_cpu_s_mean": sum(speeds) / len(speeds),
        "frames_per_cpu_s_least": min(speeds),
        "yardstick_turns_per_cpu_s": sum(row["yardstick_turns_per_cpu_s"] for row in rows) / len(rows),
        "cases": rows,
    }
    if not arguments.json:
        for row in rows:
            print(f"{row['case'][:50]:50} {row['frames_per_cpu_s']:9.0f} frames per CPU second")
        result.pop("cases")
    print(json.dumps(result, indent=1))
    return 0


def two_stages(first: int, second: int, gpus_per_server: int = 4) -> ServedModel:
    """A made model on two pools, one GPU a worker; the first pool's stage takes three times the second's."""
    return ServedModel(
        model="made",
        slo_us=100_000,
        planned_rps=first * 1e6 / 30_000,
        pipelines=(
            ServedPipeline(
                batch_size=1,
                stages=(
                    _pool("s0", 30_000, first, gpus_per_server),
                    _pool("s1", 10_000, second, gpus_per_server),
                ),
                transfer_us=((500, 1_000, 1_500, 2_000),),
            ),
        ),
    )


def _pool(name: str, latency_us: int, workers: int, gpus_per_server: int) -> ServedStage:
    return ServedStage(
        gpu=name,
        slices_per_gpu=1,
        latency_us=tuple(latency_us * b for b in (1, 2, 3, 4)),
        workers=tuple(
            ServedWorker(
                name=f"made.p0.{name}.w{w}",
                server="",
                uplink=f"{name}.up{w // gpus_per_server}",
                downlink=f"{name}.down{w // gpus_per_server}",
            )
            for w in range(workers)
        ),
    )


def _paper_cases(data: Path) -> Iterator[tuple[str, ServedModel, float]]:
    for setting in load_settings(data):
        if setting.group is None:
            continue
        plan = reference_plan(setting, "ppipe")
        for model, load in zip(plan.models, setting.reference["ppipe"]["load_at_99_rps"], strict=True):
            served = served_model(plan, setting.problem, model.model)
            yield f"{setting.name} {model.model}", served, float(load)


def _measure(
    name: str, served: ServedModel, rate_rps: float, policy: str, seconds: float, repeat: int
) -> dict[str, Any]:
    times = Workload(seconds=seconds).times_us(rate_rps, 1, served.model)
    best, yard = 0.0, 0.0
    for _ in range(repeat):
        yard = max(yard, yardstick())
        driver = SimulatedDriver(served, SchedulerCore(served, policy))
        started = time.process_time()
        counts = driver.run(iter(times))
        best = max(best, counts.offered / (time.process_time() - started))
    return {
        "case": name,
        "frames_per_cpu_s": round(best),
        "yardstick_turns_per_cpu_s": round(yard),
        "attainment": counts.attainment(),
        "events_per_frame": counts.events / counts.offered,
    }


def yardstick() -> float:
    """Turns per CPU second of a bare heapq loop over 64 entries."""
    heap = [(i * 7919 % 1000, i) for i in range(64)]
    heapq.heapify(heap)
    gc.collect()
    started = time.process_time()
    for i in range(YARDSTICK_TURNS):
        now, key = heapq.heappop(heap)
        heapq.heappush(heap, (now + key * 31 % 977 + 1, i))
    return YARDSTICK_TURNS / (time.process_time() - started)


if __name__ == "__main__":
    sys.exit(main())
