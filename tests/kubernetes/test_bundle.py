"""The bundle: valid Kubernetes objects that agree with one another and with deployment.json."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from model_repo_generator.kubernetes import BundleFault, KubernetesOptions, notes, render_bundle
from model_repo_generator.kubernetes.addresses import suggested_cluster
from model_repo_generator.kubernetes.options import ObjectStoreSource, load_options, parse_options
from model_repo_generator.kubernetes.pods import prepare_cores
from model_repo_generator.render import Rendered
from model_repo_generator.share import shared
from planner.deployment import Deployment, parse_deployment
from planner.frames import FrameCost
from planner.manifest import DeploymentManifest
from planner.placing import place
from planner.plan import Plan
from planner.serving import ServedEntry, ServedHost
from tests.kubernetes.conftest import PORTS, deployment_data, hand_made_plan, manifest_of

VERSIONS = ("1.27", "1.29", "1.31", "1.34")
CUSTOM = {"PodMonitor", "PrometheusRule", "Kustomization"}


def documents(bundle: dict[str, str]) -> Iterator[dict[str, Any]]:
    for path, text in bundle.items():
        if path.endswith(".yaml"):
            yield from yaml.safe_load_all(text)


def of_kind(bundle: dict[str, str], kind: str) -> dict[str, dict[str, Any]]:
    found = [document for document in documents(bundle) if document["kind"] == kind]
    assert len({each["metadata"]["name"] for each in found}) == len(found)
    return {each["metadata"]["name"]: each for each in found}


def container(bundle: dict[str, str], name: str) -> dict[str, Any]:
    return dict(of_kind(bundle, "StatefulSet")[name]["spec"]["template"]["spec"]["containers"][0])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_in_kubernetes(bundle: dict[str, str], version: str) -> None:
    kinds = set()
    for document in documents(bundle):
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)
            kinds.add(document["kind"])
    assert kinds == {"StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy"}


def test_servers_that_prepare_frames_ask_for_the_cores_that_the_plan_counts_on(
    fleet_manifest: DeploymentManifest,
) -> None:
    assert prepare_cores(fleet_manifest.servers[0], fleet_manifest) == 4, "as the deployment assumes"
    server, other = fleet_manifest.servers[:2]
    entry = ServedEntry("up", "down", 350_000, 1920 * 1080, FrameCost(300, 0.0012, 0.006), ())
    entry = dataclasses.replace(entry, hosts=(ServedHost(server.name, 24),))
    models = [
        dataclasses.replace(model, served=dataclasses.replace(model.served, entry=entry))
        for model in fleet_manifest.models
    ]
    manifest = dataclasses.replace(fleet_manifest, models=tuple(models))
    assert (prepare_cores(server, manifest), prepare_cores(other, manifest)) == (24, 0)
    assert prepare_cores(fleet_manifest.entry, manifest) == 0


def test_the_validator_refuses_a_wrong_field(bundle: dict[str, str]) -> None:
    document = next(iter(of_kind(bundle, "StatefulSet").values()))
    document["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_all_options_at_once_are_valid(
    fleet_manifest: DeploymentManifest, fleet_deployment: Deployment, fleet_plan: Plan, version: str
) -> None:
    options = parse_options(
        {
            "image": "registry.example/ppipe@sha256:" + "0" * 64,
            "repository": {"kind": "object-store", "remote": ":s3,env_auth:bucket/street", "secret": "s3"},
            "image_pull_secret": "pull",
            "node_selectors": {"T4": {"nvidia.com/gpu.product": "Tesla-T4"}},
            "entry_node_selector": {"pool": "cpu"},
            "tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute"}],
            "runtime_class": "nvidia",
            "priority_class": "serving",
            "entry_service": "LoadBalancer",
            "entry_evictable": True,
            "monitoring": {"labels": {"release": "prometheus"}, "namespace": "monitoring"},
        },
        "options",
    )
    made = render_bundle(fleet_manifest, fleet_deployment, fleet_plan, options)
    for document in documents(made):
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)
    spec = of_kind(made, "StatefulSet")["street-t4-x2"]["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "Tesla-T4"}
    assert spec["initContainers"][0]["args"][-2:] == [":s3,env_auth:bucket/street", "/repository"]
    assert of_kind(made, "PodDisruptionBudget")["street-entry-server"]["spec"]["maxUnavailable"] == 1


def test_kustomization_lists_exactly_what_is_there(bundle: dict[str, str]) -> None:
    kustomization = yaml.safe_load(bundle["kustomization.yaml"])
    generated = [path for each in kustomization["configMapGenerator"] for path in each["files"]]
    assert sorted([*kustomization["resources"], *generated, "kustomization.yaml"]) == sorted(bundle)
    assert kustomization["namespace"] == "vision"


def test_same_input_same_bytes(
    bundle: dict[str, str],
    fleet_manifest: DeploymentManifest,
    fleet_deployment: Deployment,
    fleet_plan: Plan,
    options: KubernetesOptions,
) -> None:
    assert render_bundle(fleet_manifest, fleet_deployment, fleet_plan, options) == bundle


def test_every_server_is_reached_as_deployment_json_says(
    bundle: dict[str, str], fleet_manifest: DeploymentManifest, launched: dict[str, Any]
) -> None:
    services = of_kind(bundle, "Service")
    for server in (fleet_manifest.entry, *fleet_manifest.servers):
        spec = services[server.host]["spec"]
        assert spec["clusterIP"] == "None"
        assert spec["publishNotReadyAddresses"]
        pod = spec["selector"]["statefulset.kubernetes.io/pod-name"]
        assert launched[pod]["server"] == server.name
        assert f"--grpc-port={server.grpc_port}" in launched[pod]["arguments"]
        ports = {port["name"]: port["port"] for port in spec["ports"]}
        assert (ports["http"], ports["grpc"], ports["metrics"]) == (
            server.http_port,
            server.grpc_port,
            server.metrics_port,
        )
        assert tuple(launched[pod]["models"]) == server.models
        assert launched[pod]["repository"] == server.repository
        assert f"--model-repository=/tmp/ppipe-models/{server.repository}" in launched[pod]["arguments"]
        assert "--model-control-mode=poll" in launched[pod]["arguments"]


def test_pods_of_sets_are_those_that_services_and_settings_name(
    bundle: dict[str, str], launched: dict[str, Any]
) -> None:
    pods = [
        f"{name}-{index}"
        for name, each in of_kind(bundle, "StatefulSet").items()
        for index in range(each["spec"]["replicas"])
    ]
    assert sorted(pods) == sorted(launched)
    services = of_kind(bundle, "Service")
    for name, each in of_kind(bundle, "StatefulSet").items():
        template = each["spec"]["template"]["metadata"]["labels"]
        assert each["spec"]["selector"]["matchLabels"].items() <= template.items()
        assert each["spec"]["serviceName"] in services
        assert of_kind(bundle, "PodDisruptionBudget")[name]["spec"]["selector"] == each["spec"]["selector"]


def test_gpus_classes_and_slices(bundle: dict[str, str], launched: dict[str, Any]) -> None:
    whole, halves, fake, entry = (
        container(bundle, f"street-{name}") for name in ("l4-x1", "t4-x2", "fake-emulated", "entry-server")
    )
    assert whole["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert halves["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in {**fake["resources"]["limits"], **entry["resources"]["limits"]}
    assert [launched[f"street-{name}-0"]["mps"] for name in ("l4-x1", "t4-x2", "fake-emulated")] == [
        False,
        True,
        False,
    ]
    sets = of_kind(bundle, "StatefulSet")
    selectors = {name: each["spec"]["template"]["spec"].get("nodeSelector") for name, each in sets.items()}
    assert selectors == {
        "street-entry-server": None,
        "street-l4-x1": {"ppipe/gpu-class": "L4"},
        "street-t4-x2": {"ppipe/gpu-class": "T4"},
        "street-fake-emulated": None,
    }


def test_shared_memory_counts_within_the_memory_limit(bundle: dict[str, str]) -> None:
    for each in of_kind(bundle, "StatefulSet").values():
        spec = each["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        memory = spec["containers"][0]["resources"]["limits"]["memory"]
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        size = int(volumes["shm"]["emptyDir"]["sizeLimit"].removesuffix("Mi"))
        assert 64 <= size < int(memory.removesuffix("Mi"))
        mounted = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounted["shm"] == "/dev/shm"
        assert mounted.keys() == volumes.keys()


def test_every_python_process_is_probed_by_an_inference(
    launched: dict[str, Any], bundle: dict[str, str], fleet_manifest: DeploymentManifest
) -> None:
    entry = launched["street-entry-server-0"]
    assert entry["probes"] == {"cars": "dispatcher", "faces": "dispatcher"}
    assert launched["street-t4-x2-0"]["probes"].keys() == set(fleet_manifest.server("T4-0").models)
    for name in of_kind(bundle, "StatefulSet"):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container(bundle, name)[probe]["exec"]["command"] == ["python3", "/ppipe/probe.py"]


def test_pods_may_do_nothing_but_serve(bundle: dict[str, str]) -> None:
    for each in of_kind(bundle, "StatefulSet").values():
        spec = each["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        for one in spec["containers"]:
            assert one["securityContext"]["readOnlyRootFilesystem"] is True
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert one["securityContext"]["allowPrivilegeEscalation"] is False


def test_clients_reach_the_entry_only(bundle: dict[str, str]) -> None:
    policies = of_kind(bundle, "NetworkPolicy")
    everyone = policies["street-clients"]["spec"]
    assert everyone["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "street-entry-server"
    assert [port["port"] for port in everyone["ingress"][0]["ports"]] == [8000, 8001]
    inside = policies["street-inside"]["spec"]
    (within,) = inside["ingress"]
    assert "ports" not in within
    assert within["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "street"


def test_metrics_are_open_group_by_group_and_nothing_else_is(bundle: dict[str, str]) -> None:
    for name, policy in of_kind(bundle, "NetworkPolicy").items():
        if not name.endswith("-metrics"):
            continue
        spec = policy["spec"]
        assert name == f"{spec['podSelector']['matchLabels']['app.kubernetes.io/component']}-metrics"
        (rule,) = spec["ingress"]
        wanted = [8002, 8100, 8101] if "entry" in name else [8002]
        assert [port["port"] for port in rule["ports"]] == wanted
    assert len([name for name in of_kind(bundle, "NetworkPolicy") if name.endswith("-metrics")]) == len(
        of_kind(bundle, "StatefulSet")
    )


def test_pods_call_each_other_and_the_name_service_alone(
    bundle: dict[str, str], fleet_manifest: DeploymentManifest, fleet_deployment: Deployment, fleet_plan: Plan
) -> None:
    spec = of_kind(bundle, "NetworkPolicy")["street-inside"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    members, names = spec["egress"]
    assert members["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "street"
    assert {port["port"] for port in names["ports"]} == {53}
    source = {"kind": "object-store", "remote": ":s3:bucket/street", "port": 9000}
    options = parse_options({"image": "triton:1", "repository": source}, "test")
    made = render_bundle(fleet_manifest, fleet_deployment, fleet_plan, options)
    store = of_kind(made, "NetworkPolicy")["street-inside"]["spec"]["egress"][-1]
    assert store == {"ports": [{"protocol": "TCP", "port": 9000}]}


def test_notices_have_a_way_to_the_entry(bundle: dict[str, str]) -> None:
    ports = container(bundle, "street-entry-server")["ports"]
    udp = {port["name"]: port["containerPort"] for port in ports if port["protocol"] == "UDP"}
    service = of_kind(bundle, "Service")["street-entry"]["spec"]["ports"]
    assert udp == {"notices-0": 8100, "notices-1": 8101}
    assert udp == {port["name"]: port["port"] for port in service if port["protocol"] == "UDP"}


def test_servers_without_gpus_are_one_group_however_many_they_stand_for(options: KubernetesOptions) -> None:
    data = deployment_data()
    more = {"name": "fake-1", "host": "street-fake-1", **PORTS}
    data["cluster"]["groups"].append({"gpu": "fake", "gpus_per_server": 4, "servers": [more]})
    deployment = parse_deployment(data, "test")
    plan = hand_made_plan()
    faces = plan.models[1]
    stages = (dataclasses.replace(faces.pipelines[1].stages[0], workers=3),)
    pipelines = (faces.pipelines[0], dataclasses.replace(faces.pipelines[1], stages=stages))
    plan = dataclasses.replace(plan, models=(plan.models[0], dataclasses.replace(faces, pipelines=pipelines)))
    plan = dataclasses.replace(plan, placement=place(plan, deployment.to_cluster()))
    made = render_bundle(manifest_of(deployment, plan), deployment, plan, options)
    assert of_kind(made, "StatefulSet")["street-fake-emulated"]["spec"]["replicas"] == 2


def test_one_repository_for_the_fleet_is_read_with_the_classs_settings(
    fleet_manifest: DeploymentManifest,
    fleet_deployment: Deployment,
    fleet_plan: Plan,
    options: KubernetesOptions,
    launched: dict[str, Any],
) -> None:
    made = shared(Rendered(manifest=fleet_manifest, files={})).manifest
    files = render_bundle(made, fleet_deployment, fleet_plan, options)
    server = json.loads(files["launch/servers.json"])["servers"]["street-t4-x2-0"]
    arguments = server["arguments"]
    assert "--model-config-name=T4" in arguments
    assert server["repository"] == "groups/fleet"
    plain = launched["street-t4-x2-0"]["arguments"]
    assert not any(argument.startswith("--model-config-name") for argument in plain)


# What is refused


def test_a_deployment_without_dispatchers_is_refused(
    fleet_manifest: DeploymentManifest,
    fleet_deployment: Deployment,
    fleet_plan: Plan,
    options: KubernetesOptions,
) -> None:
    bare = dataclasses.replace(fleet_manifest, entry=dataclasses.replace(fleet_manifest.entry, models=()))
    with pytest.raises(BundleFault, match="no models on the entry server"):
        render_bundle(bare, fleet_deployment, fleet_plan, options)


def test_loopback_hosts_are_refused_with_what_to_write(options: KubernetesOptions) -> None:
    data = deployment_data()
    for group in data["cluster"]["groups"]:
        group["count"] = len(group.pop("servers"))
    del data["cluster"]["entry"]
    deployment = parse_deployment(data, "test")
    plan = _placed(deployment)
    with pytest.raises(BundleFault) as fault:
        render_bundle(manifest_of(deployment, plan), deployment, plan, options)
    text = str(fault.value)
    assert "server entry: host '127.0.0.1' is no name that a Service can have" in text
    assert "differ, but both would be pods of one template" in text
    assert "host: street-fake-0, http_port: 8000" in text


def test_suggested_addresses_work(options: KubernetesOptions) -> None:
    data = deployment_data()
    for group in data["cluster"]["groups"]:
        group["count"] = len(group.pop("servers"))
    data["cluster"] |= suggested_cluster(parse_deployment(data, "test"))
    deployment = parse_deployment(data, "test")
    plan = _placed(deployment)
    made = render_bundle(manifest_of(deployment, plan), deployment, plan, options)
    assert "street-t4-1" in of_kind(made, "Service")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("street-l4-0.vision.svc.cluster.local", ""),
        ("street-l4-0.vision", ""),
        ("street-l4-0.other.svc", "not in this bundle's namespace"),
        ("street-l4-1", "both have host 'street-l4-1'"),
        ("Street", "no name that a Service can have"),
        ("10.0.0.7", "no name that a Service can have"),
        ("localhost", "each pod's own address"),
        ("street", "the Service for clients would both be called 'street'"),
    ],
)
def test_hosts(host: str, message: str, options: KubernetesOptions) -> None:
    data = deployment_data()
    # Ports of its own, because two servers of one host are refused for equal ones before.
    ports = {"http_port": 9000, "grpc_port": 9001, "metrics_port": 9002} if host == "street-l4-1" else {}
    data["cluster"]["groups"][0]["servers"][0] |= {"host": host} | ports
    deployment = parse_deployment(data, "test")
    plan = _placed(deployment)
    manifest = manifest_of(deployment, plan)
    if not message:
        assert "street-l4-0" in of_kind(render_bundle(manifest, deployment, plan, options), "Service")
        return
    with pytest.raises(BundleFault, match=message):
        render_bundle(manifest, deployment, plan, options)


def test_a_plan_of_another_repository_is_refused(
    fleet_manifest: DeploymentManifest,
    fleet_deployment: Deployment,
    fleet_plan: Plan,
    options: KubernetesOptions,
) -> None:
    with pytest.raises(BundleFault, match="is not placed"):
        render_bundle(fleet_manifest, fleet_deployment, hand_made_plan(), options)
    other = dataclasses.replace(fleet_manifest.servers[0], grpc_port=9001)
    mixed = dataclasses.replace(fleet_manifest, servers=(other, *fleet_manifest.servers[1:]))
    with pytest.raises(BundleFault, match=r"server L4-0: deployment.json has street-l4-0 and ports"):
        render_bundle(mixed, fleet_deployment, fleet_plan, options)


def test_servers_older_than_recommended_start_only_where_the_options_say_so(
    fleet_manifest: DeploymentManifest, fleet_deployment: Deployment, fleet_plan: Plan
) -> None:
    for old in (False, True):
        options = KubernetesOptions(image="triton:1", triton_version="2.51.0", old_triton=old)
        files = render_bundle(fleet_manifest, fleet_deployment, fleet_plan, options)
        for server in json.loads(files["launch/servers.json"])["servers"].values():
            assert (server["triton"], server["old_triton"]) == ("2.51.0", old)
            assert server["oldest_triton"] == ["2.71", "26.07"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image", "a b", "is not an image reference"),
        ("namespace", "Vision", "is not a DNS label"),
        ("node_selectors", {"L4": {"a b": "c"}}, "is not a Kubernetes label"),
        ("repository", {"kind": "claim", "sub_path": "../x"}, "relative path"),
        ("repository", {"kind": "floppy"}, "claim"),
        ("imagee", "x", "Extra inputs"),
        ("entry_cpu", "many", "quantity"),
    ],
)
def test_faulty_options_name_their_field(field: str, value: Any, message: str) -> None:
    with pytest.raises(BundleFault, match=message) as fault:
        parse_options({"image": "triton:1", field: value}, "options.yaml")
    assert f"options.yaml: {field}" in str(fault.value)


def test_options_file(tmp_path: Any) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("image: triton:1\nrepository: {kind: object-store, remote: ':s3:b/x'}\n")
    options = load_options(path, namespace="vision")
    assert isinstance(options.repository, ObjectStoreSource)
    assert options.namespace == "vision"
    path.write_text("- image")
    with pytest.raises(BundleFault, match="a mapping"):
        load_options(path)


def _placed(deployment: Deployment) -> Plan:
    plan = hand_made_plan()
    return dataclasses.replace(plan, placement=place(plan, deployment.to_cluster()))


def test_settings_are_json_with_nothing_but_data(bundle: dict[str, str]) -> None:
    settings = json.loads(bundle["launch/servers.json"])["servers"]
    for each in settings.values():
        assert all(isinstance(argument, str) for argument in each["arguments"])


def two_pools(
    options: KubernetesOptions,
    sizes: tuple[int, int] = (1, 2),
    gbps: tuple[int, int] = (10, 10),
    **changes: Any,
) -> tuple[dict[str, str], list[str]]:
    """The bundle and notes of a deployment whose T4s are in servers of two sizes, or of two links."""
    data = deployment_data()
    (group,) = (group for group in data["cluster"]["groups"] if group["gpu"] == "T4")
    servers = group.pop("servers")
    small = group | {"servers": servers[:1], "gpus_per_server": sizes[0], "bandwidth_gbps": gbps[0]}
    large = group | {"servers": servers[1:], "gpus_per_server": sizes[1], "bandwidth_gbps": gbps[1]}
    others = [group for group in data["cluster"]["groups"] if group["gpu"] != "T4"]
    data["cluster"]["groups"] = [*others, small, large]
    deployment = parse_deployment(data, "test")
    plan = _placed(deployment)
    chosen = parse_options(options.model_dump(mode="json") | changes, "options")
    manifest = manifest_of(deployment, plan)
    return render_bundle(manifest, deployment, plan, chosen), list(notes(manifest, deployment, plan, chosen))


def test_each_size_of_a_class_can_have_its_own_selector_and_resource(options: KubernetesOptions) -> None:
    selectors = {"T4-x1": {"node": "small"}, "T4": {"node": "large"}}
    made, said = two_pools(
        options, node_selectors=selectors, gpu_resources={"T4-x1": "nvidia.com/mig-1g.5gb"}
    )
    found = {
        name: each["spec"]["template"]["spec"]
        for name, each in of_kind(made, "StatefulSet").items()
        if "t4" in name
    }
    assert {name: spec["nodeSelector"] for name, spec in found.items()} == {
        "street-t4-x1": {"node": "small"},
        "street-t4-x2": {"node": "large"},
    }
    limits = {name: spec["containers"][0]["resources"]["limits"] for name, spec in found.items()}
    assert limits["street-t4-x1"]["nvidia.com/mig-1g.5gb"] == "1"
    assert limits["street-t4-x2"]["nvidia.com/gpu"] == "2"
    assert said == []


def test_sizes_with_one_selector_are_noted(options: KubernetesOptions) -> None:
    _, said = two_pools(options, node_selectors={"T4": {"accelerator": "t4"}})
    (note,) = said
    assert "T4-x1 and T4-x2 have the same selector" in note


def test_pools_of_one_size_are_told_apart_by_their_links(options: KubernetesOptions) -> None:
    selectors = {"T4-x2": {"node": "slow"}, "T4-x2-25gbps": {"node": "fast"}}
    made, said = two_pools(options, (2, 2), (10, 25), node_selectors=selectors)
    found = {
        name: each["spec"]["template"]["spec"]["nodeSelector"]
        for name, each in of_kind(made, "StatefulSet").items()
        if "t4" in name
    }
    assert found == {"street-t4-x2-10gbps": {"node": "slow"}, "street-t4-x2-25gbps": {"node": "fast"}}
    assert said == []


def test_several_mig_devices_of_one_server_are_refused_with_the_way_out(options: KubernetesOptions) -> None:
    with pytest.raises(
        BundleFault, match=r"mig-1g.5gb for T4-x2: CUDA shows .* one MIG device .*gpus_per_server: 1"
    ):
        two_pools(options, gpu_resources={"T4": "nvidia.com/mig-1g.5gb"})


def test_a_selector_of_a_size_that_is_not_there_is_refused(options: KubernetesOptions) -> None:
    with pytest.raises(BundleFault, match=r"gpu_resources: no GPU class or size 'T4-x8'; there are .*T4-x2"):
        two_pools(options, gpu_resources={"T4-x8": "nvidia.com/gpu"})
