"""Prometheus' own promtool evaluates every alert on the series of its fault, and none on healthy ones: those
for the Prometheus operator and those for a Prometheus without a cluster.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_repo_generator.monitoring import metric_names as names
from model_repo_generator.monitoring import render_prometheus
from planner.manifest import DeploymentManifest

PREFIX = Path(sys.prefix) / "prometheus" / "usr" / "bin"
"""Where scripts/setup unpacks Debian's package."""
MINUTES = 40
HEALTHY = {
    names.FRAMES: ('model="cars"', "0+600x80"),
    names.IN_TIME: ('model="cars"', "0+600x80"),
    names.WORKER_UP: ('model="cars",worker="w"', "1x80"),
    names.OPEN_FRAMES: ('model="cars"', "3x80"),
    names.STAGE_DRIFT: ('model="cars",pipeline="0",stage="0"', "1x80"),
    names.ARENA: ('model="cars",sender="w",state="quarantined"', "0x80"),
    names.TRITON_GPU_MEMORY_USED: ('pod="p",gpu_uuid="g"', "50x80"),
    names.TRITON_GPU_MEMORY_TOTAL: ('pod="p",gpu_uuid="g"', "100x80"),
}
"""By metric its labels and values, one each half minute: 20 frames/s, all in time."""
Change = tuple[str, str] | None
"""Labels and values; None: no such series."""
FAULTS: tuple[tuple[str, dict[str, Change]], ...] = (
    ("PPipeEntryDown", {names.UP: None}),
    ("PPipeEntryDown", {names.UP: ("", "0x80")}),
    ("PPipeNoWorker", {names.DROPPED: ('model="cars",reason="no_worker"', "0+60x80")}),
    (
        "PPipeDispatcherStuck",
        {names.IN_TIME: ('model="cars"', "600x80"), names.FRAMES: ('model="cars"', "600x80")},
    ),
    ("PPipeAttainmentLow", {names.IN_TIME: ('model="cars"', "0+300x80")}),
    ("PPipeWorkerDown", {names.WORKER_UP: ('model="cars",worker="w"', "0x80")}),
    ("PPipeHopsFail", {names.FAILED_ATTEMPTS: ('model="cars",kind="timeout"', "0+60x80")}),
    ("PPipeStageSlow", {names.STAGE_DRIFT: ('model="cars",pipeline="0",stage="0"', "1.6x80")}),
    ("PPipeSlotsQuarantined", {names.ARENA: ('model="cars",sender="w",state="quarantined"', "4096x80")}),
    ("PPipeBeyondPlan", {names.FRAMES: ('model="cars"', "0+60000x80")}),
    ("PPipeServerRestarts", {names.RESTARTS: ("", "0+1x80"), names.UP: ("", "1 1 0 " * 27)}),
    ("PPipeGpuMemoryFull", {names.TRITON_GPU_MEMORY_USED: ('pod="p",gpu_uuid="g"', "97x80")}),
)
"""What is other than healthy. A restarted server is seen by Kubernetes, or as one that comes and goes."""


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool", path=str(PREFIX)) or shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool here: scripts/setup unpacks it from Debian's package prometheus")
    return found


@pytest.fixture(params=["operator", "plain"])
def groups(
    request: pytest.FixtureRequest, bundle: dict[str, str], fleet_manifest: DeploymentManifest
) -> dict[str, Any]:
    _, rule = yaml.safe_load_all(bundle["monitoring.yaml"])
    plain = yaml.safe_load(render_prometheus(fleet_manifest)["alerts.yml"])
    found: dict[str, Any] = rule["spec"] if request.param == "operator" else plain
    return found


def alerts(groups: dict[str, Any]) -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for group in groups["groups"] for rule in group["rules"]}


def series(groups: dict[str, Any], changes: dict[str, Change]) -> list[dict[str, str]]:
    """The healthy series with these changes, under the labels that the rules ask for."""
    found = alerts(groups)
    entry = re.findall(r'ppipe_group="[^"]*"', found["PPipeEntryDown"])[0]
    special = {names.UP: (entry, "1x80")}
    restarts = found["PPipeServerRestarts"]
    if names.RESTARTS in restarts:
        pod = re.findall(r'pod=~"([^|"]*)-\[', restarts)[0]
        labels = f'{re.findall(r"container=[^,]*", restarts)[0]},pod="{pod}-0"'
        special[names.RESTARTS] = (labels, "0x80")
    instance = re.findall(rf'{names.INSTANCE_LABEL}="[^"]*"', found["PPipeEntryDown"])[0]
    rows = []
    for metric, healthy in {**dict.fromkeys(changes), **HEALTHY, **special}.items():
        change = changes.get(metric, healthy)
        if change is not None:
            labels, values = change
            own = labels or special.get(metric, ("",))[0]
            rows.append({"series": f"{metric}{{{instance},{own}}}", "values": values})
    return rows


def test_every_alert_has_its_fault(groups: dict[str, Any]) -> None:
    assert alerts(groups).keys() == {name for name, _ in FAULTS}


def test_each_fault_fires_its_alert_and_health_none(
    promtool: str, groups: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "rules.json").write_text(json.dumps(groups), encoding="utf-8")
    tests = []
    for name, changes in (("", {}), *FAULTS):
        which = f',alertname="{name}"' if name else ""
        expected = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name else []
        tests.append(
            {
                "name": name or "healthy",
                "interval": "30s",
                "input_series": series(groups, changes),
                "promql_expr_test": [
                    {
                        "expr": f'group by (alertname) (ALERTS{{alertstate="firing"{which}}})',
                        "eval_time": f"{MINUTES}m",
                        "exp_samples": expected,
                    }
                ],
            }
        )
    plan = {"rule_files": ["rules.json"], "evaluation_interval": "30s", "tests": tests}
    (tmp_path / "tests.json").write_text(json.dumps(plan), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", "tests.json"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
