"""`lint` on the command line: exit status, JSON, and how fast it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.lint import write_fleet
from model_repo_generator.lint import lint
from model_repo_generator.lint.command import main
from tests.lint.battery.case import config, python_model


def write(root: Path, text: str) -> Path:
    for path, content in python_model(text, "m").items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


def test_nothing_found_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write(tmp_path, config("m")))]) == 0
    assert capsys.readouterr().out == "0 errors, 0 warnings\n"


def test_warnings_are_0_unless_strict(tmp_path: Path) -> None:
    write(tmp_path, config("m", batch="", rest="dynamic_batching { }"))
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--strict"]) == 1


def test_errors_are_1_and_json_says_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, config("m", batch="max_batch_size: -1"))
    assert main([str(tmp_path), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["errors"], said["warnings"]) == (1, 0)
    assert said["findings"] == [
        {
            "level": "error",
            "code": "max-batch-size",
            "model": "m",
            "file": "m/config.pbtxt",
            "line": 3,
            "field": "max_batch_size",
            "message": "-1 is below 0; 0 means that the model takes no batches",
            "effect": "refused",
            "source": "",
        }
    ]


def test_what_cannot_be_linted_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "gone")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "deployment.json").write_text("[]")
    assert main([str(tmp_path)]) == 2


def test_hosts_are_told_by_options(tmp_path: Path) -> None:
    write(tmp_path, config("m", rest="instance_group [ { kind: KIND_GPU gpus: [ 1 ] } ]"))
    assert main([str(tmp_path), "--gpus", "2", "--backend", "python"]) == 0
    assert main([str(tmp_path), "--gpus", "1"]) == 1
    assert main([str(tmp_path), "--backend", "onnxruntime"]) == 1


def test_200_models_take_less_than_2_s_of_processor_time(tmp_path: Path) -> None:
    write_fleet(tmp_path, models=200)
    began = time.process_time()
    assert lint(tmp_path) == ()
    assert time.process_time() - began < 2
