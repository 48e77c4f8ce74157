"""What README's commands have made of the example fleet of 100 GPUs, checked further: it is the test of that
example, as tests/live/test_examples_live.py is of the others.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from model_repo_generator.lint.command import main as lint
from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan
from planner.profile import Profile, Source
from ppipe.cli import run

NAME = "l4-t4"


def assert_fleet_is_sound(reader: Path) -> None:
    """Plans, repository, rehearsal and the answers of its models."""
    work, file = reader / ".ppipe" / NAME, reader / "ensembles" / "examples" / f"{NAME}.yaml"
    profile = serial.load(Profile, work / "profile.json")
    assert {table.source for model in profile.models for table in model.tables} == {Source.ESTIMATED}
    plan = serial.load(Plan, work / "plan.json")
    _assert_pipelines_are_worth_it(plan, file, work)
    _assert_its_repository_is_sound(file, work)
    manifest = serial.load(DeploymentManifest, work / "rehearsal" / MANIFEST_NAME)
    # Servers of one class with unlike links are planned as pools: <class>-x<GPUs>.
    used = {re.sub(r"-x\d+$", "", gpu) for gpu, count in plan.gpus_used.items() if count}
    assert {server.group for server in manifest.servers} == used, "every class is there"
    (bench,) = json.loads((work / "bench-rehearsal.json").read_text(encoding="utf-8"))["systems"].values()
    assert set(bench["models"]) == {model.model for model in manifest.models}
    for name, score in bench["models"].items():
        assert score["answered"] > 0, name
        assert (score["unanswered"], score["mismatched"]) == (0, 0), name


def _assert_pipelines_are_worth_it(plan: Plan, file: Path, work: Path) -> None:
    other = work / "other-planners"
    other.mkdir()
    for name in ("profile.json", "problem.json"):
        shutil.copy(work / name, other / name)
    for planner in ("np", "dart-r"):
        assert run(["plan", str(file), "--work", str(other), "--planner", planner]) == 0
        assert plan.objective > 1.15 * serial.load(Plan, other / "plan.json").objective, planner


def _assert_its_repository_is_sound(file: Path, work: Path) -> None:
    generate = ["generate", str(file), "--work", str(work), "--no-programs"]
    assert run(generate) == 0
    assert run([*generate, "--check"]) == 0
    known = ["--deployment", str(file), "--profile", str(work / "profile.json")]
    assert lint([str(work / "repository"), *known]) == 0
