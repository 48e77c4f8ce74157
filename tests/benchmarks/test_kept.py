"""Results that outlive a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.helpers.kept import Kept


def test_a_later_run_finds_what_an_earlier_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first = Kept(path, {"seed": 1, "loads": (0.5, 0.7)})
    first.add("a/1", {"value": 3})
    first.add("b/1", {"value": 4})
    first.add("a/2", {"value": 5})
    again = Kept(path, {"seed": 1, "loads": (0.5, 0.7)})
    assert "a/1" in again
    assert "a/3" not in again
    assert again["b/1"] == {"value": 4}
    assert list(again.named("a/")) == [{"value": 3}, {"value": 5}]
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Kept(path, {"seed": 1}).add("a", {})
    with pytest.raises(ValueError, match=r"results.json: of settings .*give another file"):
        Kept(path, {"seed": 2})


def test_without_a_path_nothing_is_written() -> None:
    kept = Kept(None, {})
    kept.add("a", {"value": 1})
    assert kept["a"] == {"value": 1}
