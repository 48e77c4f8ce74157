"""Turn about in two checkouts: which figure is taken, in which order, and what interval comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import paired
from benchmarks.paired import BenchmarkFailed, Turn, figure_of, summary

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = """
import json, pathlib, sys
log = pathlib.Path({log!r})
with log.open("a") as file:
    file.write({name!r})
print("said before")
print(json.dumps({{"cpu": {{"entry": {value}, "stage": 1}}, "arguments": sys.argv[1:]}}))
"""


def checkout(folder: Path, value: int) -> Path:
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "benchmarks" / "__init__.py").touch()
    (folder / "benchmarks" / "made.py").write_text(
        BENCHMARK.format(log=str(folder.parent / "order"), name=folder.name[0], value=value)
    )
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def test_both_are_run_turn_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, after = checkout(tmp_path / "before", 3), checkout(tmp_path / "after", 1)
    monkeypatch.setattr(paired, "_ROOT", after)
    assert paired.main(["--base", str(base), "--turns", "3", "--figure", "cpu", "made", "--size", "4"]) == 0
    assert (tmp_path / "order").read_text() == "baabba"
    found = json.loads(capsys.readouterr().out)["cpu"]
    assert (found["before"], found["after"], found["ratio"], found["interval"]) == (4, 2, 0.5, [0.5, 0.5])


def test_the_interval_is_students_of_the_logarithms() -> None:
    found = summary([Turn(100, 100), Turn(100, 121)])
    assert found["ratio"] == 1.1
    low, high = found["interval"]
    assert low * high == pytest.approx(1.21, rel=1e-2)
    assert high == pytest.approx(1.1 * 1.1**12.706, rel=1e-3)
    many = summary([Turn(100, 100 + step % 3) for step in range(30)])
    assert many["width"] < 0.01


@pytest.mark.parametrize("key", ["gpu", "cpu.client"])
def test_a_figure_that_is_not_there_is_named(key: str) -> None:
    with pytest.raises(BenchmarkFailed, match=f"no figure '{key}'; there are cpu"):
        figure_of({"cpu": {"entry": 1}}, key)


def test_a_checkout_without_the_benchmark_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkFailed, match=r"has no benchmark 'made' in benchmarks or ppipe/benchmarks"):
        paired.main(["--base", str(tmp_path), "--figure", "cpu", "made"])
