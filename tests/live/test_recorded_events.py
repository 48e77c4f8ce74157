"""A live dispatcher's events are recorded, from its start and on request, and replay to the same actions."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from model_repo_generator.emulated import write_deployment
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from tests.live.data_plane_client import Client, two_stage_model

pytestmark = [pytest.mark.live, pytest.mark.unhurried]


def test_a_recorded_run_replays_to_the_same_actions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, logs = tmp_path / "repository", tmp_path / "logs"
    write_deployment(repository, [two_stage_model()], base_port=free_base(31_000, 40))
    with ServedDeployment(repository, logs, record_mb=20) as deployment:
        deployment.start()
        client = Client(deployment.manifest)
        for number in range(600):
            client.send()
            if number % 20 == 19:
                client.send(client_timeout=0.004, timeout=1)  # refused, or its caller leaves
            time.sleep(0.003)
        assert client.wait(timeout_s=60) == 0
        (from_start,) = logs.glob("tiny.*.events.jsonl")
        assert run(["record", str(repository), "--work", str(tmp_path), "--seconds", "0.5"]) == 0
        deadline_s = time.monotonic() + 60
        while len(list(logs.glob("*.events.jsonl"))) < 2 and time.monotonic() < deadline_s:
            client.send()
            time.sleep(0.01)
        for _ in range(100):
            client.send()
            time.sleep(0.01)
        assert client.wait(timeout_s=60) == 0
        client.close()
        (later,) = set(logs.glob("*.events.jsonl")) - {from_start}
    capsys.readouterr()
    assert run(["simulate", str(repository), "--replay", str(from_start), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["replayed"]["lines"] == found["replayed"]["equal_lines"] > 1000
    assert found["ways"]["as it was"]["frames"] >= 600
    assert 0 < found["ways"]["as it was"]["in_time"] <= found["ways"]["as it was"]["frames"]
    assert run(["simulate", str(repository), "--replay", str(later)]) == 0
    assert "as it was" in capsys.readouterr().out
    assert oct(from_start.stat().st_mode & 0o777) == "0o600"
