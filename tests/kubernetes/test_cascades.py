"""A cascade in containers: its process is probed, scraped, reached and given room as the dispatchers' are."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import kubernetes_validate
import pytest
import yaml

from model_repo_generator.generate import placed
from model_repo_generator.kubernetes import (
    ComposeOptions,
    KubernetesOptions,
    render_bundle,
    render_compose,
)
from model_repo_generator.kubernetes.addresses import check_ports
from model_repo_generator.kubernetes.fleet import read_fleet
from model_repo_generator.kubernetes.memory import shm_bytes
from model_repo_generator.kubernetes.names import BundleFault
from planner.cascades.demands import divided_as_planned, planned_cascades
from planner.deployment import Deployment, parse_deployment
from planner.manifest import DeploymentManifest
from planner.placing import place
from planner.plan import Plan
from planner.profile import Profile
from planner.sharding import plan_shards
from tests.kubernetes.conftest import deployment_data, hand_made_plan, manifest_of, model_profile
from tests.kubernetes.test_compose import local_data
from tests.kubernetes.test_entries import LEASES, NAMES, cluster_data

MOST = 20


def cascaded(data: dict[str, Any]) -> tuple[Deployment, Plan, DeploymentManifest]:
    """The models as a cascade: what is found of each car's frame goes to the other."""
    for model in data["models"]:
        del model["slo_ms"]
    members = [{"model": "cars"}, {"model": "faces", "of": "cars", "count": 4, "most": MOST, "make": "a.b:c"}]
    data["cascades"] = [{"name": "seen", "slo_ms": 20_000, "models": members}]
    deployment = parse_deployment(data, "test")
    profile = Profile(models=(model_profile("cars"), model_profile("faces")))
    plan = hand_made_plan()
    models = tuple(dataclasses.replace(model, slo_us=10_000_000) for model in plan.models)
    plan = dataclasses.replace(plan, models=models)
    plan = dataclasses.replace(plan, cascades=planned_cascades(deployment.to_problem(profile), plan))
    plan = dataclasses.replace(plan, placement=place(plan, deployment.to_cluster()))
    inner = divided_as_planned(deployment.to_problem(profile), plan)
    plan = placed(dataclasses.replace(plan, shards=plan_shards(plan, inner)), deployment, profile)
    return deployment, plan, manifest_of(deployment, plan)


@pytest.fixture(scope="module")
def made() -> tuple[Deployment, Plan, DeploymentManifest]:
    return cascaded(deployment_data())


def documents(text: str) -> list[Any]:
    return [each for each in yaml.safe_load_all(text) if each]


@pytest.mark.parametrize("operated", [False, True])
def test_the_bundle_knows_it(
    made: tuple[Deployment, Plan, DeploymentManifest], options: KubernetesOptions, operated: bool
) -> None:
    deployment, plan, manifest = made
    port = manifest.cascade("seen").metrics_port
    if operated:
        source = {"kind": "claim", "claim": "c", "sub_path": "street/repository"}
        plain = {
            **options.model_dump(exclude_none=True),
            "repository": source,
            "operator": {"work": "street"},
        }
        options = KubernetesOptions.model_validate(plain)
    bundle = render_bundle(manifest, deployment, plan, options)
    entry = json.loads(bundle["launch/servers.json"])["servers"]["street-entry-server-0"]
    assert entry["public"] == dict.fromkeys(("cars", "faces", "seen"), "public")
    if not operated:
        assert entry["probes"]["seen"] == "dispatcher"
        assert "seen" in entry["models"]
        assert "seen" not in entry["revives"], "its callers wait until the server's end"
    assert "--exit-timeout-secs=45" in entry["arguments"], "twice the cascade's SLO, and 5 s"
    (servers,) = documents(bundle["servers-street-entry-server.yaml"])
    kubernetes_validate.validate(servers, "1.34", strict=True)
    container = servers["spec"]["template"]["spec"]["containers"][0]
    (name,) = [each["name"] for each in container["ports"] if each["containerPort"] == port]
    assert container["resources"]["requests"]["cpu"] == "3000m", "a half for each model, one for the cascade"
    monitor = next(each for each in documents(bundle["monitoring.yaml"]) if each["kind"] == "PodMonitor")
    assert name in [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]]
    policies = {each["metadata"]["name"]: each for each in documents(bundle["network.yaml"])}
    scraped = policies["street-entry-server-metrics"]["spec"]["ingress"][0]["ports"]
    assert port in [each["port"] for each in scraped]


def test_compose_knows_it(made: tuple[Deployment, Plan, DeploymentManifest]) -> None:
    deployment, plan, manifest = made
    chosen = ComposeOptions.model_validate({"image": "ppipe:1", "repository": "./repository"})
    files = render_compose(manifest, deployment, plan, chosen)
    (settings,) = [
        each for path, text in files.items() if path.endswith("servers.json")
        for each in json.loads(text)["servers"].values() if each["server"] == "entry"
    ]  # fmt: skip
    assert settings["probes"]["seen"] == "dispatcher"
    assert "seen" in settings["public"]


def test_shared_memory_has_room_for_the_answers_of_all_crops(
    made: tuple[Deployment, Plan, DeploymentManifest],
) -> None:
    _, _, manifest = made
    alone = dataclasses.replace(manifest, cascades=())
    with_it, without = (
        shm_bytes(each, each.entry, in_flight=3, default_bytes=1 << 25) for each in (manifest, alone)
    )
    answers = sum(4 * len(each.outputs) for each in manifest.models) * MOST
    assert with_it - without > 3 * answers


def test_a_page_on_a_port_of_another_is_refused(made: tuple[Deployment, Plan, DeploymentManifest]) -> None:
    deployment, plan, manifest = made
    cascade = dataclasses.replace(manifest.cascade("seen"), metrics_port=8100)
    fleet = read_fleet(dataclasses.replace(manifest, cascades=(cascade,)), deployment, plan)
    with pytest.raises(
        BundleFault, match=r"those of cascades' pages, \[8100, 8101, 8100\] must be different"
    ):
        check_ports(fleet)


def test_each_of_two_entries_serves_it(options: KubernetesOptions) -> None:
    deployment, plan, manifest = cascaded(cluster_data(LEASES))
    assert {len(shards.shards) for shards in plan.shards} == {1, 2}, "one is passed on from an entry"
    bundle = render_bundle(manifest, deployment, plan, options)
    found = json.loads(bundle["launch/servers.json"])["servers"].values()
    entries = {each["server"]: each for each in found if each["server"] in NAMES}
    assert set(entries) == set(NAMES)
    port = manifest.cascade("seen").metrics_port
    for name, entry in entries.items():
        assert entry["probes"]["seen"] == "dispatcher"
        assert "seen" in entry["public"]
        assert manifest.cascade_ports(name) == {"seen": port}, "a pod each"
    (servers,) = documents(bundle["servers-street-entry-server.yaml"])
    assert servers["spec"]["replicas"] == 2
    (container,) = servers["spec"]["template"]["spec"]["containers"]
    assert port in [each["containerPort"] for each in container["ports"]]


def test_compose_gives_each_of_two_entries_the_cascade() -> None:
    data = local_data()
    data["cluster"]["entries"] = 2
    deployment, plan, manifest = cascaded(data)
    files = render_compose(manifest, deployment, plan, ComposeOptions(image="ppipe:1"))
    found = json.loads(files["launch/servers.json"])["servers"].values()
    entries = [each for each in found if each["server"].startswith("entry")]
    assert len(entries) == 2
    assert all(each["probes"]["seen"] == "dispatcher" for each in entries)
    pages = [manifest.cascade_ports(entry.name)["seen"] for entry in manifest.entries]
    assert len(set(pages)) == 2, "on one host"
