"""docs/metrics.md and the files of `ppipe monitoring` say what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_repo_generator.monitoring import render_prometheus
from planner.manifest import DeploymentManifest
from ppipe.cli import run
from python_backend.cascade.page import PREFIX as CASCADE_PREFIX
from python_backend.cascade.page import cascade_families
from python_backend.dispatcher.metrics.prometheus import PREFIX, families

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def rows(cells: int) -> list[list[str]]:
    """Of all tables with so many columns, headings included."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    split = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in split if len(row) == cells]


def test_the_page_lists_every_metric_as_the_code_does() -> None:
    """Type and meaning; the labels are compared with a live deployment's (tests/live)."""
    listed = {row[0]: (row[1], row[3]) for row in rows(4) if row[0].startswith(PREFIX)}
    made = {f"{PREFIX}{name}": (kind, text) for name, kind, text in families()}
    made |= {f"{CASCADE_PREFIX}{name}": (kind, text) for name, kind, text in cascade_families()}
    assert listed == made


def test_the_page_lists_every_alert(fleet_manifest: DeploymentManifest) -> None:
    (group,) = yaml.safe_load(render_prometheus(fleet_manifest)["alerts.yml"])["groups"]
    made = {rule["alert"]: (rule["labels"]["severity"], rule["for"]) for rule in group["rules"]}
    assert {row[0]: (row[1], row[2]) for row in rows(4) if row[0].startswith("PPipe")} == made


def test_every_page_is_a_target_once(fleet_manifest: DeploymentManifest) -> None:
    targets = json.loads(render_prometheus(fleet_manifest)["targets.json"])
    addresses = [address for each in targets for address in each["targets"]]
    assert len(set(addresses)) == len(addresses)
    servers = (fleet_manifest.entry, *fleet_manifest.servers)
    assert len(addresses) == len(servers) + len(fleet_manifest.models)
    assert [each["labels"]["pod"] for each in targets] == [server.name for server in servers]
    labels = {tuple(each["labels"]) for each in targets}
    assert labels == {("app_kubernetes_io_instance", "ppipe_group", "pod")}


@pytest.mark.parametrize(("interval", "fine"), [("15s", True), ("1m", True), ("soon", False), ("0s", False)])
def test_the_interval_is_one_of_prometheus(
    fleet_manifest: DeploymentManifest, tmp_path: Path, capsys: Any, interval: str, fine: bool
) -> None:
    from planner import serial

    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "deployment.json").write_text(serial.dumps(fleet_manifest), encoding="utf-8")
    status = run(["monitoring", str(tmp_path / "repository"), "--interval", interval])
    if not fine:
        assert status == 1
        assert re.search(rf"--interval {interval}: expected .* 15s", capsys.readouterr().err)
        assert not (tmp_path / "monitoring").exists()
        return
    assert status == 0
    plain = yaml.safe_load((tmp_path / "monitoring" / "prometheus.yml").read_text(encoding="utf-8"))
    assert set(plain["global"].values()) == {interval}
    assert plain["scrape_configs"][0]["file_sd_configs"] == [{"files": ["targets.json"]}]
