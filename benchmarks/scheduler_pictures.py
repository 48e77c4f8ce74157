"""Draws the pictures of docs/scheduler.md: scripts/benchmarks scheduler_pictures [FOLDER]."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from ppipe.simulation.curve import attainment_curve
from ppipe.simulation.pictures import draw_attainment, draw_gantt
from python_backend.simulator.capacity import Workload

POLICIES = ("adaptive", "reference", "reactive")


def made_model() -> ServedModel:
    """Batches of 3 over fast then slow GPUs, and a slow pipeline of single frames with little slack."""
    fast = ServedPipeline(
        batch_size=3,
        stages=(
            _pool("p0.s0", "A", (9_000, 15_000, 21_000), 4),
            _pool("p0.s1", "B", (8_000, 14_000, 20_000), 4),
        ),
        transfer_us=((1_000, 2_000, 3_000),),
    )
    slow = ServedPipeline(batch_size=1, stages=(_pool("p1.s0", "B", (48_000, 90_000), 6),), transfer_us=())
    planned_rps = 4 * 3e6 / 21_000 + 6 * 1e6 / 48_000
    return ServedModel(model="made", slo_us=60_000, planned_rps=planned_rps, pipelines=(fast, slow))


def _pool(name: str, gpu: str, latency_us: tuple[int, ...], workers: int) -> ServedStage:
    return ServedStage(
        gpu=gpu,
        slices_per_gpu=1,
        latency_us=latency_us,
        workers=tuple(
            ServedWorker(
                name=f"made.{name}.w{w}",
                server="",
                uplink=f"{name}.up{w // 2}",
                downlink=f"{name}.down{w // 2}",
            )
            for w in range(workers)
        ),
    )


def main(arguments: Sequence[str]) -> int:
    """Draw both pictures into a folder."""
    folder = Path(arguments[0]) if arguments else Path("docs/images")
    model = made_model()
    rate = 0.92 * model.planned_rps
    draw_gantt(
        model,
        POLICIES[:2],
        rate,
        folder / "scheduler-gantt.png",
        Workload(seconds=3.0, seeds=(1,)),
        (500_000, 750_000),
    )
    factors = [0.5 + 0.05 * step for step in range(14)]
    curve = attainment_curve(model, tuple(POLICIES), factors, Workload(seconds=10.0, seeds=(1,)))
    draw_attainment(curve, folder / "scheduler-attainment.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
