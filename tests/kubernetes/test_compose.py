"""The compose file: accepted by a parser of the specification, addresses and GPUs as deployed."""

import dataclasses
import json
from typing import Any

import pytest
import yaml
from compose_spec.compose_spec import PyCompose
from hypothesis import given, settings
from hypothesis import strategies as st

from model_repo_generator.kubernetes import BundleFault, ComposeOptions, render_compose
from planner.deployment import Deployment, DeploymentError, parse_deployment
from planner.manifest import DeploymentManifest
from planner.placing import place
from planner.plan import Plan
from tests.kubernetes.conftest import deployment_data, hand_made_plan, manifest_of

IMAGE = ComposeOptions(image="ppipe:1")


def local_data() -> dict[str, Any]:
    """The same fleet on one host's loopback address."""
    data = deployment_data()
    for group in data["cluster"]["groups"]:
        group["count"] = len(group.pop("servers"))
    del data["cluster"]["entry"]
    return data


def rendered(data: dict[str, Any], options: ComposeOptions = IMAGE) -> dict[str, Any]:
    deployment = parse_deployment(data, "test")
    plan = hand_made_plan()
    plan = dataclasses.replace(plan, placement=place(plan, deployment.to_cluster()))
    text = render_compose(manifest_of(deployment, plan), deployment, plan, options)["compose.yaml"]
    PyCompose.from_yaml(text).validate()
    return dict(yaml.load(text, yaml.CSafeLoader))


def test_the_parser_refuses_a_wrong_field() -> None:
    with pytest.raises(ValueError, match="shmm_size"):
        PyCompose.from_yaml("services: {a: {image: b, shmm_size: 1m}}")


def test_loopback_shares_network_and_memory() -> None:
    services = rendered(local_data())["services"]
    holder = services.pop("shm")
    assert holder["ipc"] == "shareable"
    assert {each["network_mode"] for each in services.values()} == {"host"}
    assert {each["ipc"] for each in services.values()} == {"service:shm"}
    prefixes = [each["environment"]["PPIPE_SHM_PREFIX"] for each in services.values()]
    assert len(set(prefixes)) == len(services) == 6
    assert not any(a != b and a.startswith(b) for a in prefixes for b in prefixes)
    assert int(holder["shm_size"].removesuffix("m")) >= 6 * 64


def test_host_names_make_a_network_of_their_own() -> None:
    document = rendered(deployment_data())
    services = document["services"]
    assert services["t4-1"]["networks"]["servers"]["aliases"] == ["street-t4-1"]
    assert services["entry"]["ports"] == ["127.0.0.1:8000:8000", "127.0.0.1:8001:8001"]
    assert "ports" not in services["t4-1"]
    assert all("ipc" not in each and each["shm_size"] for each in services.values())
    assert document["networks"] == {"servers": {}}


def test_gpus_are_given_out_once() -> None:
    services = rendered(deployment_data())["services"]
    given = {
        name: each["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name, each in services.items()
        if "deploy" in each
    }
    assert given == {"l4-0": ["0"], "l4-1": ["1"], "t4-0": ["2", "3"], "t4-1": ["4", "5"]}


def test_gpus_that_the_deployment_states_are_given_on_one_host() -> None:
    data = local_data()
    for group, devices in zip(data["cluster"]["groups"], (["5"], ["1", "GPU-ab"]), strict=False):
        count = group.pop("count")
        group["servers"] = [
            {"name": f"{group['gpu']}-{n}", "devices": [f"{d}{n or ''}" for d in devices]}
            for n in range(count)
        ]
    services = rendered(data)["services"]
    given = {
        name: each["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name, each in services.items()
        if "deploy" in each
    }
    assert given == {"l4-0": ["5"], "l4-1": ["51"], "t4-0": ["1", "GPU-ab"], "t4-1": ["11", "GPU-ab1"]}


def test_gpus_can_be_chosen() -> None:
    options = ComposeOptions(image="ppipe:1", gpus={"L4-0": ("GPU-abc",)})
    device = rendered(deployment_data(), options)["services"]["l4-0"]["deploy"]["resources"]
    assert device["reservations"]["devices"][0]["device_ids"] == ["GPU-abc"]
    for gpus, message in (({"L4-0": ("0", "1")}, "has 1 GPU, 2 are given"), ({"X": ()}, "no server 'X'")):
        with pytest.raises(BundleFault, match=message):
            rendered(deployment_data(), ComposeOptions(image="ppipe:1", gpus=gpus))


def test_the_command_lines_listen_where_the_manifest_says(
    fleet_manifest: DeploymentManifest, fleet_deployment: Deployment, fleet_plan: Plan
) -> None:
    files = render_compose(fleet_manifest, fleet_deployment, fleet_plan, IMAGE)
    servers = json.loads(files["launch/servers.json"])["servers"]
    services = yaml.safe_load(files["compose.yaml"])["services"]
    assert servers.keys() == services.keys()
    for name, each in services.items():
        assert each["environment"]["PPIPE_SERVER"] == name
        assert (
            f"--grpc-port={fleet_manifest.server(servers[name]['server']).grpc_port}"
            in servers[name]["arguments"]
        )


def test_a_mixture_of_addresses_is_refused() -> None:
    data = deployment_data()
    data["cluster"]["groups"][0]["servers"][0]["host"] = "127.0.0.1"
    with pytest.raises(BundleFault, match=r"server L4-0: host '127\.0\.0\.1'; compose needs loopback"):
        rendered(data)


def test_two_servers_of_one_port_are_refused() -> None:
    data = local_data()
    server = {"name": "L4-0", "http_port": 18000, "grpc_port": 19001, "metrics_port": 19002}
    other = {"name": "L4-1", "http_port": 19003, "grpc_port": 19004, "metrics_port": 19005}
    data["cluster"]["groups"][0] |= {"servers": [server, other]}
    del data["cluster"]["groups"][0]["count"]
    with pytest.raises(DeploymentError, match=r"port 18000 of 127\.0\.0\.1 is http_port of server 'entry'"):
        rendered(data)


@settings(max_examples=25)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=40))
def test_no_path_gets_out_of_its_field(text: str) -> None:
    path = f"./{text}"
    document = rendered(deployment_data(), ComposeOptions(image="ppipe:1", repository=path, ticket_keys=path))
    plain = rendered(deployment_data())
    assert document["secrets"]["tickets"]["file"] == path.replace("$", "$$")
    for each in (*document["services"].values(), *plain["services"].values()):
        each["volumes"][0].pop("source")
    assert document["services"] == plain["services"]


@pytest.mark.parametrize("path", ["repository", "", "./a\nb", "~/x"])
def test_what_compose_takes_for_a_volume_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not a path that begins with"):
        ComposeOptions(image="ppipe:1", repository=path)
