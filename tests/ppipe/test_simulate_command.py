"""ppipe simulate through the command line: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner import serial
from planner.planning import plan
from ppipe.cli import run
from tests.fixtures.made_problems import MadeSize, made_problem

PROBLEM = made_problem(MadeSize(gpus=10, classes=2, models=2, blocks=5, max_slices=2), seed=3)
PLAN = plan(PROBLEM, mode="fast")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plan.json").write_text(serial.dumps(PLAN), encoding="utf-8")
    (tmp_path / "problem.json").write_text(serial.dumps(PROBLEM), encoding="utf-8")
    return tmp_path


def simulate(folder: Path, *options: str) -> int:
    return run(["simulate", str(folder), "--links", "paper", "--seconds", "2", *options])


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_report_stands_beside_what_no_schedule_can_beat(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(folder, "--load-factor", "1.4", "--json") == 0
    rows = printed(capsys)
    assert [row["model"] for row in rows] == [model.model for model in PLAN.models]
    for row in rows:
        assert row["in_time"] <= row["bound_in_time"] < 0.99 * row["offered"]
        assert row["share_of_bound"] == pytest.approx(row["in_time"] / row["bound_in_time"])
    assert simulate(folder, "--jitter", "0.05", "--stragglers", "0.01", "--json") == 0
    assert all(row["bound_in_time"] is None for row in printed(capsys))
    assert simulate(folder) == 0
    assert "any schedule" in capsys.readouterr().out


def test_capacities_are_below_the_clairvoyant_ones(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(folder, "--find-capacity", "--json") == 0
    for row in printed(capsys):
        assert 0 < row["capacity_rps"] <= row["clairvoyant_rps"] * 1.01
        assert row["load_factor"] == pytest.approx(row["capacity_rps"] / row["planned_rps"])


def test_the_same_seed_writes_the_same_events(folder: Path) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert simulate(folder, "--seed", seed, "--events", str(folder / name)) == 0
    first = (folder / "a").read_bytes()
    assert first == (folder / "b").read_bytes()
    assert first != (folder / "c").read_bytes()
    header, arrived, *_ = first.splitlines()
    assert (json.loads(header)["event_log"], json.loads(header)["policy"]) == (1, "adaptive")
    assert json.loads(arrived)[1] == "RequestArrived"


def test_recorded_events_replay_as_they_were_and_under_another_policy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = folder / "log.jsonl"
    assert simulate(folder, "--events", str(log), "--seconds", "2") == 0
    capsys.readouterr()
    assert (
        simulate(folder, "--replay", str(log), "--policy", "reference", "--plan", str(folder / "plan.json"))
        == 0
    )
    text = capsys.readouterr().out
    for model in PLAN.models:
        assert f"{model.model}: all " in text
    for row in ("as it was", "simulated, adaptive", "simulated, reference", "other plan, reference"):
        assert text.count(row) == len(PLAN.models)
    assert simulate(folder, "--replay", str(log), "--json") == 0
    for line in capsys.readouterr().out.splitlines():
        one = json.loads(line)
        assert one["replayed"]["lines"] == one["replayed"]["equal_lines"] > 100
        assert one["ways"]["as it was"]["in_time"] == one["ways"]["simulated, adaptive"]["in_time"]


def test_a_changed_log_is_told_with_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = folder / "log.jsonl"
    assert simulate(folder, "--events", str(log), "--seconds", "2") == 0
    log.write_text(log.read_text().replace("Dispatch(", "Sent(", 1))
    assert simulate(folder, "--replay", str(log)) == 1
    assert "first difference: line " in capsys.readouterr().out


def test_pictures_are_drawn_for_every_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppipe.commands.simulate.CURVE_LOADS", (0.8, 1.2))
    assert simulate(folder, "--curve", str(folder / "c.png"), "--gantt", str(folder / "g.png")) == 0
    for model in PLAN.models:
        for kind in "cg":
            assert (folder / f"{kind}-{model.model}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rate", "0"), "rate_rps 0.0 must be a finite number above 0"),
        (("--load-factor", "0"), "rate_rps 0.0"),
        (("--rate", "5", "--load-factor", "1"), "--rate and --load-factor: give one of them"),
        (("--policy", "best"), "--policy: 'best' is not one of adaptive, reference, reactive"),
        (("--links", "none"), "--links: 'none' is not one of placed, paper"),
        (("--jitter", "2"), "jitter share 2.0 must be at least 0 and below 1"),
        (("--arrivals", "fractal"), "unknown arrivals 'fractal'"),
        (("--arrivals", "trace:path=/nowhere.csv"), "/nowhere.csv: No such file"),
        (("--seed", "-1"), "seed -1"),
        (("--replay", "/nowhere/x"), "--replay /nowhere/x: No such file"),
        (("--plan", "/nowhere/plan.json"), "--plan goes with --replay"),
        (("--events", "/nowhere/x"), "--events /nowhere/x: No such file"),
    ],
)
def test_what_cannot_be_simulated_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert simulate(folder, *options) == 1
    assert message in capsys.readouterr().err


def test_a_model_without_a_pipeline_is_named_with_the_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = replace(PLAN.models[0], pipelines=(), throughput_rps=0.0, note="no GPU is fast enough")
    made = replace(PLAN, models=(first, *PLAN.models[1:]))
    (folder / "plan.json").write_text(serial.dumps(made), encoding="utf-8")
    for options in ((), ("--find-capacity",)):
        assert simulate(folder, *options) == 1
        said = capsys.readouterr().err
        assert f"model {first.model}: the plan has no pipeline for it (no GPU is fast enough)" in said
