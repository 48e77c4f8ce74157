"""Alerts and dashboard: real PromQL over the names in the table, templates that nothing can get into."""

import json
import re
from typing import Any

import promql_parser
import pytest
import yaml

from model_repo_generator.monitoring import metric_names
from model_repo_generator.monitoring.dashboard import panels
from model_repo_generator.monitoring.metric_names import GROUP_LABEL, quoted, select
from planner.manifest import DeploymentManifest
from python_backend.dispatcher.metrics.prometheus import exported_names

KNOWN = {value for name, value in vars(metric_names).items() if name.isupper() and isinstance(value, str)}


def rules(bundle: dict[str, str]) -> list[dict[str, Any]]:
    _, rule = yaml.safe_load_all(bundle["monitoring.yaml"])
    return [each for group in rule["spec"]["groups"] for each in group["rules"]]


def metrics_in(expression: Any) -> set[str]:
    """Names of the metrics that a parsed expression reads."""
    return set(re.findall(r"\b((?:ppipe|nv|kube|up)[a-z_]*)(?=\{)", expression.prettify()))


def test_alerts_are_promql_over_known_metrics(bundle: dict[str, str]) -> None:
    found = rules(bundle)
    assert len({rule["alert"] for rule in found}) == len(found) >= 8
    for rule in found:
        read = metrics_in(promql_parser.parse(rule["expr"]))
        assert read
        assert read <= KNOWN, rule["alert"]
        assert re.fullmatch(r"\d+[sm]", rule["for"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(re.findall(r"\$(\w+)", rule["annotations"]["summary"])) <= {"labels", "value"}


def test_labels_in_annotations_are_labels_of_the_result(bundle: dict[str, str]) -> None:
    """`sum by (model)` leaves no other label to speak of."""
    for rule in rules(bundle):
        kept = re.search(r"^\(?sum by \(([^)]*)\)", rule["expr"])
        if kept:
            spoken = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
            assert set(spoken) <= set(kept.group(1).split(", ")), rule["alert"]


def test_every_model_has_its_planned_rate(bundle: dict[str, str]) -> None:
    (rule,) = (each for each in rules(bundle) if each["alert"] == "PPipeBeyondPlan")
    for model in ("cars", "faces"):
        assert re.search(rf'model="{model}"[^>]*> 900\.000', rule["expr"])


def test_prometheus_finds_the_pods(bundle: dict[str, str]) -> None:
    monitor, _ = yaml.safe_load_all(bundle["monitoring.yaml"])
    pod = yaml.safe_load(bundle["servers-street-t4-x2.yaml"])["spec"]["template"]
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= pod["metadata"]["labels"].items()
    assert set(monitor["spec"]["podTargetLabels"]) <= pod["metadata"]["labels"].keys()
    names = [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
    scraped = [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    assert "metrics" in names
    sets = [yaml.safe_load(text) for path, text in bundle.items() if path.startswith("servers-")]
    (entry,) = (one["spec"]["template"] for one in sets if "notices-0" in str(one))
    ports = {port["name"]: port for port in entry["spec"]["containers"][0]["ports"]}
    assert scraped == [name for name in ports if name.startswith("metrics")]
    assert ports["metrics-0"]["protocol"] == "TCP"
    assert ports["metrics-0"]["containerPort"] == ports["notices-0"]["containerPort"]


def test_dashboard_panels(bundle: dict[str, str]) -> None:
    board = json.loads(bundle["dashboard.json"])
    assert len(board["uid"]) <= 40
    places = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in board["panels"]]
    assert len(set(places)) == len(places) == len(panels("street"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            assert metrics_in(promql_parser.parse(expression)) <= KNOWN, panel["title"]


def test_the_table_has_the_names_that_dispatchers_export() -> None:
    exported = exported_names()
    assert exported
    assert {name for name in KNOWN if name.startswith("ppipe_") and name != GROUP_LABEL} <= exported


def test_every_metric_of_the_table_is_shown_or_alerted_on(bundle: dict[str, str]) -> None:
    texts = bundle["dashboard.json"] + bundle["monitoring.yaml"]
    exported = {name for name in KNOWN if name.startswith(("ppipe_", "nv_", "kube_"))}
    assert {name for name in exported if name not in texts} == set()


@pytest.mark.parametrize("text", ['a"b', "a\\", "a\nb", '"} or vector(1) #', "ü"])
def test_a_text_stays_inside_its_quotes(text: str) -> None:
    parsed = promql_parser.parse(select("up", text))
    assert isinstance(parsed, promql_parser.VectorSelector)
    (matcher,) = parsed.matchers.matchers
    assert matcher.value == text
    assert promql_parser.parse(quoted(text)).val == text


def test_monitoring_can_be_left_out(
    fleet_manifest: DeploymentManifest, fleet_deployment: Any, fleet_plan: Any
) -> None:
    from model_repo_generator.kubernetes import KubernetesOptions, render_bundle
    from model_repo_generator.kubernetes.options import MonitoringSpec

    options = KubernetesOptions(image="triton:1", monitoring=MonitoringSpec(enabled=False))
    made = render_bundle(fleet_manifest, fleet_deployment, fleet_plan, options)
    assert "monitoring.yaml" not in made
    assert "dashboard.json" not in made
    assert "monitoring.yaml" not in made["kustomization.yaml"]
