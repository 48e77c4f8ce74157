"""Makes the pictures of the docs anew, and the page of the example fleet: scripts/benchmarks pictures.

The fleet's come from the commands that README has for it (profile, plan, simulate, report), in a working
folder; what is there already is taken as it is (--fresh makes it anew). The scheduler's come from a made
model. images/two-lives.svg is drawn by hand. tests/docs/test_pictures.py holds that they are current.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from ppipe.cli import run
from ppipe.simulation.curve import AttainmentCurve, attainment_curve
from ppipe.simulation.pictures import draw_attainment, draw_gantt
from python_backend.simulator.capacity import Workload

POLICIES = ("adaptive", "reference", "reactive")
LOADS = tuple(0.5 + 0.05 * step for step in range(14))
EXAMPLE = "ensembles/examples/l4-t4.yaml"
DOCS = Path("docs")
PLAN, REPORT = "plan-fleet.svg", "l4-t4-report.html"
OF_REPORT = {"report-flows.svg": "plan.svg", "report-parts.svg": "budget.svg"}
"""By name in docs/images: what `ppipe report --pictures` calls it."""
GANTT, ATTAINMENT = "scheduler-gantt.svg", "scheduler-attainment.svg"
BY_HAND = "two-lives.svg"


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


def draw_the_gantt(path: Path) -> None:
    """docs/images/scheduler-gantt.svg."""
    model = made_model()
    rate = 0.92 * model.planned_rps
    draw_gantt(model, POLICIES[:2], rate, path, Workload(seconds=3.0, seeds=(1,)), (500_000, 750_000))


def the_curve(loads: Sequence[float] = LOADS) -> AttainmentCurve:
    """What docs/images/scheduler-attainment.svg shows."""
    return attainment_curve(made_model(), POLICIES, loads, Workload(seconds=10.0, seeds=(1,)))


def make_fleet(work: Path, page: Path, plan: Path, pictures: Path) -> None:
    """The example fleet's page, plan and pictures. Raises SystemExit where a command fails."""
    log = work / "events.jsonl"
    if not (work / "profile.json").is_file():
        _command("profile", EXAMPLE, "--work", str(work), "--estimate", "all")
    _command("plan", EXAMPLE, "--margin", "0.4", "--work", str(work), "--picture", str(plan))
    if not log.is_file():
        _command("simulate", str(work / "plan.json"), "--seconds", "5", "--events", str(log))
    _command("report", EXAMPLE, str(work), "-o", str(page), "--pictures", str(pictures))


def _command(*words: str) -> None:
    if status := run(words):
        sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make everything."""
    parser = argparse.ArgumentParser(prog="pictures", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path(".ppipe/l4-t4"), help="[default: .ppipe/l4-t4]")
    parser.add_argument("--fresh", action="store_true", help="empty that folder first")
    parser.add_argument("--docs", type=Path, default=DOCS, help="[default: docs]")
    chosen = parser.parse_args(arguments)
    images = chosen.docs / "images"
    if chosen.fresh:
        shutil.rmtree(chosen.work, ignore_errors=True)
    draw_the_gantt(images / GANTT)
    draw_attainment(the_curve(), images / ATTAINMENT)
    pictures = chosen.work / "pictures"
    make_fleet(chosen.work, chosen.docs / REPORT, images / PLAN, pictures)
    for name, source in OF_REPORT.items():
        shutil.copyfile(pictures / source, images / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
