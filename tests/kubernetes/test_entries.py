"""Several entries in a cluster and in compose: a pod each behind one Service, leases where all of them reach,
and rights for nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec.compose_spec import PyCompose

from model_repo_generator.kubernetes import BundleFault, ComposeOptions, render_bundle, render_compose
from model_repo_generator.kubernetes.addresses import suggested_cluster
from model_repo_generator.kubernetes.container import launch
from model_repo_generator.kubernetes.options import parse_options
from planner import serial
from planner.deployment import Deployment, parse_deployment
from planner.placing import place
from planner.plan import Plan
from planner.profile import Profile
from planner.sharding import plan_shards
from tests.kubernetes.conftest import PORTS, deployment_data, hand_made_plan, manifest_of, model_profile
from tests.kubernetes.test_bundle import VERSIONS, documents, of_kind
from tests.kubernetes.test_compose import local_data
from tests.kubernetes.test_operator import OPERATED

NAMES = ("north", "south")
LEASES = {"kind": "kubernetes"}
OTHER_PORTS = {"http_port": 9000, "grpc_port": 9001, "metrics_port": 9002}
OPTIONS = parse_options({"image": "registry.example/ppipe:24.10", "namespace": "street"}, "test")


def cluster_data(leases: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    data = deployment_data()
    del data["cluster"]["entry"]
    data["cluster"]["entries"] = [
        {"name": name, "host": f"street-{name}", **PORTS, "feedback_port": 8100, **changes.get(name, {})}
        for name in NAMES
    ]
    return data if leases is None else {**data, "leases": leases}


def planned(deployment: Deployment) -> Plan:
    plan = hand_made_plan()
    plan = dataclasses.replace(plan, placement=place(plan, deployment.to_cluster()))
    profile = Profile(models=(model_profile("cars"), model_profile("faces")))
    return dataclasses.replace(plan, shards=plan_shards(plan, deployment.to_problem(profile)))


def bundled(data: dict[str, Any], options: Any = OPTIONS) -> dict[str, str]:
    deployment = parse_deployment(data, "test")
    plan = planned(deployment)
    return render_bundle(manifest_of(deployment, plan), deployment, plan, options)


def composed(data: dict[str, Any]) -> dict[str, Any]:
    deployment = parse_deployment(data, "test")
    plan = planned(deployment)
    options = ComposeOptions(image="ppipe:1")
    files = render_compose(manifest_of(deployment, plan), deployment, plan, options)
    PyCompose.from_yaml(files["compose.yaml"]).validate()
    return {
        **yaml.safe_load(files["compose.yaml"]),
        "servers": json.loads(files["launch/servers.json"])["servers"],
    }


@pytest.fixture(scope="module")
def bundle() -> dict[str, str]:
    return bundled(cluster_data(LEASES))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_in_kubernetes(bundle: dict[str, str], version: str) -> None:
    for document in documents(bundle):
        if document["kind"] not in {"PodMonitor", "PrometheusRule", "Kustomization"}:
            kubernetes_validate.validate(document, version, strict=True)


def test_each_entry_is_a_pod_and_clients_have_one_address(bundle: dict[str, str]) -> None:
    (entries,) = (each for name, each in of_kind(bundle, "StatefulSet").items() if "entry" in name)
    assert entries["spec"]["replicas"] == 2
    services = of_kind(bundle, "Service")
    assert services["street"]["spec"]["selector"] == entries["spec"]["selector"]["matchLabels"]
    pod_label = "statefulset.kubernetes.io/pod-name"
    picked = {name: services[f"street-{name}"]["spec"]["selector"][pod_label] for name in NAMES}
    settings = json.loads(bundle["launch/servers.json"])["servers"]
    for name, pod in picked.items():
        other = next(each for each in NAMES if each != name)
        assert (settings[pod]["server"], settings[pod]["entry"]) == (name, name)
        assert settings[pod]["others"] == [[f"street-{other}", 8001]]
        assert {port["port"] for port in services[f"street-{name}"]["spec"]["ports"]} >= {8001, 8100, 8101}
    budgets = of_kind(bundle, "PodDisruptionBudget")
    assert budgets[entries["metadata"]["name"]]["spec"]["maxUnavailable"] == 1, "they stand in for each other"
    assert all(settings[pod]["others"] == [] for pod in settings.keys() - picked.values())


def test_entries_may_write_leases_and_nothing_else(bundle: dict[str, str]) -> None:
    account = of_kind(bundle, "ServiceAccount")["street-entries"]
    assert account["automountServiceAccountToken"] is False
    (role,) = of_kind(bundle, "Role").values()
    verbs = ["get", "list", "create", "update"]
    assert role["rules"] == [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}]
    (binding,) = of_kind(bundle, "RoleBinding").values()
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "street-entries"}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    for name, each in of_kind(bundle, "StatefulSet").items():
        spec = each["spec"]["template"]["spec"]
        variables = {one["name"] for one in spec["containers"][0]["env"]}
        is_entry = "entry" in name
        assert spec["automountServiceAccountToken"] is is_entry
        assert ("serviceAccountName" in spec) is is_entry
        assert ("PPIPE_NAMESPACE" in variables) is is_entry
    policy = of_kind(bundle, "NetworkPolicy")["street-leases"]["spec"]
    assert policy["policyTypes"] == ["Egress"]
    assert [port["port"] for port in policy["egress"][0]["ports"]] == [443, 6443]
    assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "street-entry-server"


def test_with_etcd_pods_have_no_account_and_reach_its_ports() -> None:
    leases = {"kind": "etcd", "endpoints": ["http://etcd-0:2379", "http://etcd-1:2379"]}
    made = bundled(cluster_data(leases))
    assert not of_kind(made, "ServiceAccount")
    assert not of_kind(made, "Role")
    policy = of_kind(made, "NetworkPolicy")["street-leases"]["spec"]
    assert [port["port"] for port in policy["egress"][0]["ports"]] == [2379]


def test_a_lone_entry_needs_nothing_of_it() -> None:
    data = deployment_data()
    deployment = parse_deployment(data, "test")
    plan = dataclasses.replace(hand_made_plan(), placement=place(hand_made_plan(), deployment.to_cluster()))
    made = render_bundle(manifest_of(deployment, plan), deployment, plan, OPTIONS)
    assert "leases.yaml" not in made
    assert "street-leases" not in of_kind(made, "NetworkPolicy")


@pytest.mark.parametrize(
    ("leases", "changes", "said"),
    [
        (
            {"kind": "etcd", "endpoints": ["http://e:2379"]},
            {"south": {"grpc_port": 9001}},
            "both would be pods",
        ),
        (
            {"kind": "etcd", "endpoints": ["http://e:2379"]},
            {"south": {"feedback_port": 9100}},
            "both would be",
        ),
        ({"kind": "kubernetes", "namespace": "other"}, {}, "leases.namespace: 'other', and the bundle's is"),
        (None, {}, "leases: kind is 'file' and there are 2 entries, which may be on any nodes"),
    ],
)
def test_what_cannot_be_in_a_cluster_is_refused(
    leases: dict[str, Any] | None, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BundleFault, match=said):
        bundled(cluster_data(leases, **changes))


def test_other_entries_than_the_files_are_refused() -> None:
    deployment = parse_deployment(cluster_data(LEASES), "test")
    plan = planned(deployment)
    data = cluster_data(LEASES)
    data["cluster"]["entries"][1]["name"] = "west"
    with pytest.raises(BundleFault, match=r"entries: deployment.json has north, south, the .* north, west"):
        render_bundle(manifest_of(deployment, plan), parse_deployment(data, "test"), plan, OPTIONS)
    data = cluster_data({"kind": "etcd", "endpoints": ["http://e:2379"]})
    with pytest.raises(BundleFault, match=r"leases: deployment.json and the deployment file differ"):
        render_bundle(manifest_of(deployment, plan), parse_deployment(data, "test"), plan, OPTIONS)


def test_addresses_are_suggested_for_all_entries() -> None:
    data = local_data()
    data["cluster"]["entries"] = 2
    made = suggested_cluster(parse_deployment(data, "test"))
    assert "entry" not in made
    assert [each["host"] for each in made["entries"]] == ["street-entry-0", "street-entry-1"]


def test_an_operator_reaches_all_entries(tmp_path: Path) -> None:
    """Each entry's agent hands tables on; a container finds its models, whichever entry it is."""
    deployment = parse_deployment(cluster_data(LEASES), "test")
    plan = planned(deployment)
    manifest = manifest_of(deployment, plan)
    made = render_bundle(
        manifest, deployment, plan, parse_options({**OPERATED, "namespace": "street"}, "test")
    )
    settings = json.loads(made["launch/servers.json"])["servers"]
    entries = [each for each in settings.values() if each["entry"]]
    assert [bool(each["revisions"]) for each in entries] == [True, True]
    serial.save(manifest, tmp_path / "deployment.json")
    for each in entries:
        assert set(launch.models_of(tmp_path / "deployment.json", each["server"])) == set(
            manifest.entry.models
        )


def test_compose_on_one_address_shares_a_file_of_leases() -> None:
    data = local_data()
    data["cluster"]["entries"] = 2
    made = composed(data)
    for name, service in made["services"].items():
        binds = {each["target"]: each["source"] for each in service.get("volumes", ())}
        assert ("/leases" in binds) is name.startswith("entry-"), name
    settings = made["servers"]
    assert {each["leases"] for each in settings.values() if each["entry"]} == {"/leases"}
    assert {each["leases"] for each in settings.values() if not each["entry"]} == {""}


def test_compose_with_host_names_publishes_each_entry_on_ports_of_its_own() -> None:
    etcd = {"kind": "etcd", "endpoints": ["http://etcd:2379"]}
    with pytest.raises(
        BundleFault, match="entries north and south: both would publish port 8000 on this host"
    ):
        composed(cluster_data(etcd))
    made = composed(cluster_data(etcd, south=OTHER_PORTS))
    assert made["services"]["north"]["ports"] == ["127.0.0.1:8000:8000", "127.0.0.1:8001:8001"]
    assert made["services"]["south"]["ports"] == ["127.0.0.1:9000:9000", "127.0.0.1:9001:9001"]
    with pytest.raises(BundleFault, match="leases: kind is 'kubernetes', and containers of one host have no"):
        composed(cluster_data(LEASES, south=OTHER_PORTS))


def test_entries_are_spread_over_nodes_where_that_can_be(bundle: dict[str, str]) -> None:
    for each in of_kind(bundle, "StatefulSet").values():
        (spread,) = each["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
        assert spread["labelSelector"]["matchLabels"] == each["spec"]["selector"]["matchLabels"]


def over_https(files: dict[str, str], **changes: Any) -> dict[str, Any]:
    return cluster_data({"kind": "etcd", "endpoints": ["https://etcd-0:2379"], **files}, **changes)


def mounts_of(files: dict[str, str], name: str, volume: str) -> dict[str, str]:
    spec = of_kind(files, "StatefulSet")[name]["spec"]["template"]["spec"]
    assert (volume in {each["name"] for each in spec["volumes"]}) is ("entry" in name)
    mounts = spec["containers"][0]["volumeMounts"]
    return {each["subPath"]: each["mountPath"] for each in mounts if each["name"] == volume}


def test_entries_alone_get_the_files_for_etcd() -> None:
    files = {"ca": "/etc/etcd/ca.pem", "certificate": "/etc/etcd/c.pem", "key": "/etc/etcd/k.pem"}
    made = bundled(over_https(files))
    for name in of_kind(made, "StatefulSet"):
        found = mounts_of(made, name, "etcd-tls")
        wanted = dict(zip(("ca.crt", "tls.crt", "tls.key"), files.values(), strict=True))
        assert found == (wanted if "entry" in name else {})
    services = composed(over_https(files, south=OTHER_PORTS))["services"]
    for name, service in services.items():
        binds = {each["target"] for each in service["volumes"]}
        assert (set(files.values()) <= binds) is (name in NAMES), name


def test_of_files_for_etcd_only_those_that_are_named_are_mounted() -> None:
    made = bundled(over_https({"ca": "/etc/etcd/ca.pem"}))
    assert mounts_of(made, "street-entry-server", "etcd-tls") == {"ca.crt": "/etc/etcd/ca.pem"}


def test_a_file_for_etcd_that_mutual_tls_has_too_is_mounted_once() -> None:
    tls = {"ca": "/etc/tls/ca.pem", "certificate": "/etc/tls/c.pem", "key": "/etc/tls/k.pem"}
    own = {"certificate": "/etc/etcd/c.pem", "key": "/etc/etcd/k.pem"}
    made = bundled(over_https({"ca": tls["ca"], **own}) | {"tls": tls})
    found = mounts_of(made, "street-entry-server", "etcd-tls")
    assert found == {"tls.crt": own["certificate"], "tls.key": own["key"]}


@pytest.mark.parametrize(("render", "changes"), [(bundled, {}), (composed, {"south": OTHER_PORTS})])
def test_a_file_for_etcd_does_not_lie_where_a_container_has_something_else(
    render: Callable[[dict[str, Any]], object], changes: dict[str, Any]
) -> None:
    with pytest.raises(BundleFault, match=r"leases\.ca: '/tmp/ca\.pem' is below /tmp"):
        render(over_https({"ca": "/tmp/ca.pem"}, **changes))


def test_a_folder_for_leases_that_is_not_there_is_no_other_users() -> None:
    data = local_data()
    data["cluster"]["entries"] = 2
    made = composed(data)
    binds = [
        bind
        for each in made["services"].values()
        for bind in each.get("volumes", ())
        if "lease" in bind["target"]
    ]
    assert binds
    assert all(bind["bind"] == {"create_host_path": False} for bind in binds)
