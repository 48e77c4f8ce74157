"""`ppipe demo --heal` as a newcomer runs it, short: both runs and the picture, no frame without an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ppipe.cli import run
from ppipe.commands.demo import HEAL_FILE
from ppipe.serving.ports import free_base

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.mark.timeout(240)
def test_a_server_is_lost_with_operate_and_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = yaml.safe_load(HEAL_FILE.read_text())
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["stated"]["gflop_per_s"] /= 80
    for model in data["models"]:
        model |= {"program": {"factory": "tests.live.tiny_net:TinyNet"}, "blocks": 4}
        size = 45 if model["name"] == "cars" else 32  # twice the work: two servers, and one for faces
        model["input"]["shape"] = [3, size, size]
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump(data))
    base_port = str(free_base(27_000, 40))
    options = ["--deployment", str(file), "--work", str(tmp_path / "work"), "--base-port", base_port]
    assert run(["demo", "--heal", "--json", "--seconds", "4", *options]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["server"].startswith("fast")
    assert summary["requests"] > 60
    assert summary["unanswered"] == 0
    assert 0 <= summary["after_loss_without"] < 1, "a model was on that server alone"
    assert (tmp_path / "work" / "heal.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "work" / "heal.json").read_text()) == summary
