"""A working folder with all that a page can show: made problem, overload, bench, manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from model_repo_generator.emulated import build_manifest
from planner import serial
from planner.planning import plan
from planner.serving_build import served_model
from ppipe.bench.score import Score
from ppipe.simulation.curve import attainment_curve
from ppipe.simulation.view import simulate_plan
from python_backend.scheduler.event_log import EventLog
from python_backend.simulator.capacity import Workload
from tests.fixtures.made_problems import MadeSize, made_problem
from tests.live.data_plane_client import two_stage_model

HOSTILE = "<script>window.hacked=1</script>\"'&<img src=x onerror=alert(1)>"
PROBLEM = made_problem(MadeSize(gpus=10, classes=2, models=2, blocks=5, max_slices=2), seed=3)
PLAN = plan(PROBLEM, mode="fast")
MODELS = [model.model for model in PLAN.models]
SCORE = Score(
    requests=100, offered_rps=50.0, answered=97, unanswered=0, mismatched=0, failed=0, max_abs_error=0.0,
    attainment=0.95, goodput_rps=47.5, late=2, drops={"overload": 3}, p50_ms=20.0, p95_ms=40.0, p99_ms=60.0,
)  # fmt: skip


def make_folder(folder: Path, load: float = 1.3, seconds: float = 1.0) -> Path:
    """Write everything; more frames come than can be served."""
    folder.mkdir(parents=True, exist_ok=True)
    workload = Workload(seconds=seconds, seeds=(1,))
    with (folder / "load.jsonl").open("w", encoding="utf-8") as file:
        simulate_plan(PLAN, PROBLEM, load, workload=workload, log=EventLog(file))
    curves = [
        attainment_curve(served_model(PLAN, PROBLEM, name, "paper"), ("adaptive",), (0.5, 1.0), workload)
        for name in MODELS
    ]
    for curve in curves:
        write(folder / f"curve-{curve.model}.json", serial.dumps(curve))
    write(folder / "plan.json", serial.dumps(PLAN))
    write(folder / "problem.json", serial.dumps(PROBLEM))
    write(folder / "profile.json", serial.dumps(PROBLEM.profile))
    bench = {
        "seconds": 2.0,
        "slo_us": {MODELS[0]: 1},
        "planned_rps": 60.0,
        "total": serial.to_plain(SCORE),
        "models": {MODELS[0]: serial.to_plain(SCORE)},
    }
    write(folder / "bench.json", json.dumps({"seed": 1, "systems": {"ppipe": bench}}))
    manifest = build_manifest([two_stage_model()], 20_000, "made fleet")
    (folder / "repository").mkdir(exist_ok=True)
    write(folder / "repository" / "deployment.json", serial.dumps(manifest))
    return folder


def make_hostile(folder: Path) -> Path:
    """The same with a model that has a name of that kind, wherever it stands."""
    make_folder(folder)
    quoted = json.dumps(HOSTILE)[1:-1]
    for file in [*folder.glob("*.json"), *folder.glob("*.jsonl")]:
        write(file, file.read_text(encoding="utf-8").replace(f'"{MODELS[0]}"', f'"{quoted}"'))
    return folder


def make_many(folder: Path, models: int) -> Path:
    """A plan of so many models: the made one's, again and again."""
    folder.mkdir(parents=True, exist_ok=True)
    many = tuple(replace(PLAN.models[k % 2], model=f"model {k}") for k in range(models))
    write(folder / "plan.json", serial.dumps(replace(PLAN, models=many)))
    profile = replace(PROBLEM.profile.models[0])
    profiles = tuple(replace(profile, model=f"model {k}") for k in range(models))
    write(folder / "profile.json", serial.dumps(replace(PROBLEM.profile, models=profiles)))
    return folder


def write(path: Path, content: str) -> None:
    """UTF-8."""
    path.write_text(content, encoding="utf-8")
