"""Mutual TLS in containers: who is told what, where the files come from, and what is refused."""

import dataclasses
import json
from typing import Any

import kubernetes_validate
import pytest
import yaml

from model_repo_generator.kubernetes import (
    BundleFault,
    ComposeOptions,
    KubernetesOptions,
    render_bundle,
    render_compose,
)
from planner.deployment import parse_deployment
from planner.placing import place
from tests.kubernetes.conftest import deployment_data, hand_made_plan, manifest_of

FILES = {"ca": "/etc/ppipe-tls/ca.pem", "certificate": "/etc/ppipe-tls/host.pem", "key": "/etc/keys/host.key"}
FLAGS = [
    "--grpc-use-ssl=1",
    "--grpc-use-ssl-mutual=1",
    "--grpc-server-cert=/etc/ppipe-tls/host.pem",
    "--grpc-server-key=/etc/keys/host.key",
    "--grpc-root-cert=/etc/ppipe-tls/ca.pem",
]
KUBERNETES = KubernetesOptions(image="ppipe:1", namespace="vision")
COMPOSE = ComposeOptions(image="ppipe:1")


def rendered(
    options: KubernetesOptions | ComposeOptions, data: dict[str, Any] | None = None, **changed: str
) -> dict[str, str]:
    data = {**(data or deployment_data()), "tls": FILES | changed}
    deployment = parse_deployment(data, "test")
    plan = hand_made_plan()
    plan = dataclasses.replace(plan, placement=place(plan, deployment.to_cluster()))
    manifest = manifest_of(deployment, plan)
    if isinstance(options, ComposeOptions):
        return render_compose(manifest, deployment, plan, options)
    return render_bundle(manifest, deployment, plan, options)


def objects(files: dict[str, str], path: str) -> list[dict[str, Any]]:
    return list(yaml.load_all(files[path], yaml.CSafeLoader))


def arguments(files: dict[str, str], name: str) -> list[str]:
    return list(json.loads(files["launch/servers.json"])["servers"][name]["arguments"])


def pod(files: dict[str, str], name: str) -> dict[str, Any]:
    return dict(objects(files, f"servers-{name}.yaml")[0]["spec"]["template"]["spec"])


def test_stage_servers_ask_for_certificates_and_keep_http_to_themselves() -> None:
    files = rendered(KUBERNETES)
    stage = arguments(files, "street-t4-x2-0")
    assert [each for each in stage if "ssl" in each or "-cert" in each or "server-key" in each] == FLAGS
    assert "--http-address=127.0.0.1" in stage
    assert not any(each.startswith(("--grpc-address", "--metrics-address")) for each in stage)
    names = [port["name"] for port in pod(files, "street-t4-x2")["containers"][0]["ports"]]
    assert names == ["grpc", "metrics"]
    services = {each["metadata"]["name"]: each for each in objects(files, "services.yaml")}
    for service in ("street-t4-0", "street-t4-x2"):
        assert [port["name"] for port in services[service]["spec"]["ports"]] == ["grpc", "metrics"]


def test_clients_need_no_certificate() -> None:
    files = rendered(KUBERNETES)
    entry = arguments(files, "street-entry-server-0")
    assert not any("ssl" in each or each.startswith("--http-address") for each in entry)
    services = {each["metadata"]["name"]: each for each in objects(files, "services.yaml")}
    assert [port["name"] for port in services["street"]["spec"]["ports"]] == ["http", "grpc"]


@pytest.mark.parametrize("name", ["street-entry-server", "street-t4-x2", "street-fake-emulated"])
def test_every_pod_has_the_files_where_deployment_json_says(name: str) -> None:
    spec = pod(rendered(KUBERNETES), name)
    mounts = {each["mountPath"]: each for each in spec["containers"][0]["volumeMounts"]}
    keys = {"ca": "ca.crt", "certificate": "tls.crt", "key": "tls.key"}
    for field, path in FILES.items():
        assert mounts[path] == {"name": "tls", "mountPath": path, "subPath": keys[field], "readOnly": True}
    (volume,) = (each for each in spec["volumes"] if each["name"] == "tls")
    assert volume["secret"] == {"secretName": "street-tls", "defaultMode": 0o440}


def test_the_objects_are_valid_and_the_secret_may_be_another() -> None:
    files = rendered(KUBERNETES.model_copy(update={"tls_secret": "certificates"}))
    made = [each for path in files if path.endswith(".yaml") for each in objects(files, path)]
    for each in made:
        if each["kind"] in ("StatefulSet", "Service"):
            kubernetes_validate.validate(each, "1.34", strict=True)
    sets = [each["spec"]["template"]["spec"] for each in made if each["kind"] == "StatefulSet"]
    secrets = {volume["secret"]["secretName"] for spec in sets for volume in spec["volumes"][-1:]}
    assert secrets == {"certificates"}


def test_without_tls_nothing_of_it_is_there(bundle: dict[str, str]) -> None:
    assert not any("ssl" in text or "subPath" in text for text in bundle.values())
    assert not any(each.startswith("--http-address") for each in arguments(bundle, "street-t4-x2-0"))


def test_compose_mounts_the_hosts_files() -> None:
    files = rendered(COMPOSE)
    service = objects(files, "compose.yaml")[0]["services"]["t4-0"]
    binds = {each["target"]: each for each in service["volumes"]}
    for path in FILES.values():
        assert binds[path] == {"type": "bind", "source": path, "target": path, "read_only": True}
    assert set(FLAGS) <= set(arguments(files, "t4-0"))
    assert "--http-address=127.0.0.1" in arguments(files, "t4-0")


@pytest.mark.parametrize(
    ("field", "path", "message"),
    [
        ("key", "/repository/host.key", "tls.key: '/repository/host.key' is below /repository"),
        ("ca", "/dev/shm/ca.pem", "tls.ca: '/dev/shm/ca.pem' is below /dev"),
        ("certificate", "/tls/a:b.pem", "no absolute path without ':'"),
        ("certificate", "/tls/../ppipe/a.pem", "no absolute path without ':' and '..'"),
        ("certificate", FILES["ca"], "would both be called"),
    ],
)
def test_paths_that_no_container_could_have(field: str, path: str, message: str) -> None:
    for options in (KUBERNETES, COMPOSE):
        with pytest.raises(BundleFault, match=message):
            rendered(options, **{field: path})


def test_a_repository_generated_before_tls_is_refused() -> None:
    old = parse_deployment(deployment_data(), "test")
    new = parse_deployment({**deployment_data(), "tls": FILES}, "test")
    plan = hand_made_plan()
    plan = dataclasses.replace(plan, placement=place(plan, old.to_cluster()))
    with pytest.raises(BundleFault, match=r"tls: deployment\.json and the deployment file differ"):
        render_bundle(manifest_of(old, plan), new, plan, KUBERNETES)
