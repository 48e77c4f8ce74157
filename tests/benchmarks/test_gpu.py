"""scripts/gpu, rehearsed on a CPU: each part gives figures, what is cut short goes on, the page says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.helpers.gpu.page import page

ALONE = ("check", "tests", "executor", "profile", "slices")


def rehearse(out: Path, *parts: str, again: bool = False) -> int:
    arguments = ["--rehearse", "--out", str(out), *(["--again"] if again else [])]
    for part in parts:
        arguments += ["--part", part]
    return gpu.main(arguments)


@pytest.mark.slow
def test_a_rehearsal_gives_figures_of_every_part_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse(tmp_path, *ALONE) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert {part: results[part]["status"] for part in results} == dict.fromkeys(ALONE, "ok")
    assert "passed" in results["tests"]["figures"]["pytest"]
    kinds = {row["kind"] for row in results["profile"]["figures"] if row.get("ms")}
    assert kinds == {"torch", "onnx"}
    written = (tmp_path / "gpu.md").read_text()
    assert written.startswith("# Rehearsal on a CPU: none of these figures is of a GPU\n")
    assert "## Profiles" in written
    capsys.readouterr()
    assert rehearse(tmp_path, *ALONE) == 0
    assert capsys.readouterr().out.count("ok before") == len(ALONE), "nothing is run again"


def test_a_part_that_fails_or_takes_too_long_says_why_and_is_run_again(tmp_path: Path) -> None:
    late = gpu.run_part("executor", rehearse=True, out=tmp_path, limit_s=0.1)
    assert (late["status"], "it goes on where it was" in late["why"]) == ("failed", True)
    unknown = gpu.run_part("nothing", rehearse=True, out=tmp_path)
    assert unknown["status"] == "failed"
    assert "invalid choice: 'nothing'" in unknown["why"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_and_unrehearsed_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert "finds no GPU here; --rehearse runs the same on a CPU" in capsys.readouterr().err


def test_a_page_shows_rows_as_a_table_and_why_a_part_was_left_out() -> None:
    results = {
        "profile": {"status": "ok", "seconds": 3.0, "figures": [{"network": "a|b", "ms": {"1": 2.5}}]},
        "serve": {"status": "skipped", "seconds": 0.1, "why": "no tritonserver"},
    }
    written = page(results, rehearsal=False)
    assert written.startswith("# Figures of a GPU\n")
    assert '| a\\|b | {"1": 2.5} |' in written
    assert "skipped, 0 s.\n\n    no tritonserver" in written
