"""scripts/paper robustness: pieces are kept and gone on from; the figures are those of the rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.paper import cli
from benchmarks.paper.robustness import MORE_TO_DO, PLANNED_FOR, SERVED, figures, table
from ppipe.simulation import margin, rungs

DATA = Path(__file__).resolve().parents[3] / "shared" / "paper"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the paper's data folder {DATA} is absent")


def row(planned_for: str, conditions: str, ratio: float) -> dict[str, object]:
    named = {"problem": "0/A-B", "model": "m"}
    return named | {"planned_for": planned_for, "conditions": conditions, "ratio": ratio}


def test_figures_are_least_and_mean_over_cases() -> None:
    rows = [row("jitter", "jitter5", ratio) for ratio in (1.0, 1.5)]
    rows += [row("jitter", "jitter10", ratio) for ratio in (0.8, 1.2)]
    rows += [row("jitter", "nominal", ratio) for ratio in (1.2, 1.6)]
    rows += [row("cv4", "cv4", ratio) for ratio in (0.6, 0.6)]
    rows += [row("poisson", "cv4", ratio) for ratio in (0.3, 0.5)]
    rows += [row("cv2", "cv2", 1.1)]
    assert figures(rows) == {
        "cases": 2,
        "jitter5_min": 1.0,
        "jitter5_mean": 1.25,
        "jitter10_min": 0.8,
        "nominal_mean": 1.4,
        "cv4_gain": 1.5,
        "cv2_mean": 1.1,
    }
    assert table(rows).row_count == 6
    assert set(SERVED) == set(PLANNED_FOR)


@needs_data
def test_a_run_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rungs, "FIRST", ((1, 1),))
    monkeypatch.setattr(rungs, "MOST_CANDIDATES", 1)
    monkeypatch.setattr(margin, "FINALISTS", 0)
    monkeypatch.setattr(margin, "SCENARIOS", 1)
    monkeypatch.setattr(margin, "SECONDS", 1.0)
    arguments = ["robustness", "--data", str(DATA), "--only", "0/L4-P4", "--for", "jitter", "--seconds", "1"]
    arguments += ["--seeds", "1", "--processes", "1", "--results", str(tmp_path / "kept.json"), "--json"]
    assert cli.main([*arguments, "--stop-after", "0"]) == MORE_TO_DO
    assert cli.main(arguments) == 0
    capsys.readouterr()
    assert cli.main([*arguments, "--stop-after", "0"]) == 0
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert last["cases"] == 3
    assert 0.3 < last["jitter10_min"] <= last["jitter5_min"] <= last["jitter5_mean"] < 2
