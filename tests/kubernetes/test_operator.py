"""The operator in a cluster and in compose: a changed plan changes no object, it has no rights, and what it
asks of a container is done there.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from model_repo_generator.generate import placed
from model_repo_generator.kubernetes import (
    BundleFault,
    ComposeOptions,
    KubernetesOptions,
    render_bundle,
    render_compose,
)
from model_repo_generator.kubernetes.container import agent, launch, probe
from model_repo_generator.kubernetes.options import parse_options
from planner.deployment import Deployment
from planner.plan import Plan
from planner.profile import Profile
from ppipe.serving.server_models import AskedModels
from tests.kubernetes.conftest import hand_made_plan, manifest_of, model_profile

OPERATED = {
    "image": "registry.example/ppipe:24.10",
    "repository": {"kind": "claim", "claim": "shared", "sub_path": "street/repository"},
    "operator": {"work": "street"},
}


def options(**changes: Any) -> KubernetesOptions:
    return parse_options({**OPERATED, **changes}, "test")


def other_plan(deployment: Deployment) -> Plan:
    """The same servers, and another network on each: faces in a pipeline, cars on an L4 alone."""
    plan = hand_made_plan()
    cars, faces = plan.models
    models = (
        dataclasses.replace(cars, pipelines=faces.pipelines),
        dataclasses.replace(faces, pipelines=cars.pipelines),
    )
    profile = Profile(models=(model_profile("cars"), model_profile("faces")))
    return placed(dataclasses.replace(plan, models=models), deployment, profile)


def rendered(deployment: Deployment, plan: Plan, chosen: KubernetesOptions) -> dict[str, str]:
    return render_bundle(manifest_of(deployment, plan), deployment, plan, chosen)


def documents(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def test_a_changed_plan_changes_nothing_that_a_pod_is_made_of(
    fleet_deployment: Deployment, fleet_plan: Plan
) -> None:
    plans = (fleet_plan, other_plan(fleet_deployment))
    one, other = (rendered(fleet_deployment, plan, options()) for plan in plans)
    alerts = {"monitoring.yaml", "dashboard.json"}
    assert {path for path in one if one[path] != other[path]} <= alerts
    assert {path for path in one if path.startswith(("servers-", "launch/"))}
    without, with_other = (rendered(fleet_deployment, plan, options(operator=None)) for plan in plans)
    assert without["launch/servers.json"] != with_other["launch/servers.json"]


@pytest.mark.parametrize("version", ["1.27", "1.34"])
def test_it_is_one_pod_without_rights_that_may_write_its_working_folder(
    fleet_deployment: Deployment, fleet_plan: Plan, version: str
) -> None:
    bundle = rendered(fleet_deployment, fleet_plan, options())
    assert "operator.yaml" in yaml.safe_load(bundle["kustomization.yaml"])["resources"]
    kinds = {
        each["kind"] for path, text in bundle.items() if path.endswith(".yaml") for each in documents(text)
    }
    assert not kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"}
    (found,) = documents(bundle["operator.yaml"])
    kubernetes_validate.validate(found, version, strict=True)
    assert (found["kind"], found["spec"]["replicas"]) == ("Deployment", 1)
    assert found["spec"]["strategy"] == {"type": "Recreate"}
    spec = found["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["command"] == [
        *("ppipe", "operate", "/work/deployment.yaml", "--work", "/work", "--fleet", "/work/fleet"),
    ]
    assert container["volumeMounts"][0] == {"name": "work", "mountPath": "/work", "subPath": "street"}
    policy = next(
        each for each in documents(bundle["network.yaml"]) if each["metadata"]["name"].endswith("-inside")
    )
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert chosen.items() <= found["spec"]["template"]["metadata"]["labels"].items(), "it may call servers"
    for path in (each for each in bundle if each.startswith("servers-")):
        (servers,) = documents(bundle[path])
        kubernetes_validate.validate(servers, version, strict=True)
        spec = servers["spec"]["template"]["spec"]
        mounts = spec["containers"][0]["volumeMounts"]
        group = servers["spec"]["template"]["metadata"]["labels"]["ppipe/group"]
        own = {"mountPath": f"/fleet/there/{group}", "subPath": f"street/fleet/there/{group}"}
        assert [each for each in mounts if each["name"] == "fleet"] == [
            {"name": "fleet", "mountPath": "/fleet", "subPath": "street/fleet", "readOnly": True},
            {"name": "fleet", **own},
        ], "of the claim it writes what servers of its own group tell, and reads what it is asked"
        claims = {"repository", "fleet"}
        assert {each["name"] for each in spec["volumes"] if "persistentVolumeClaim" in each} == claims
        (folders,) = spec["initContainers"]
        made = ["/fleet/wanted", "/fleet/there", f"/fleet/there/{group}"]
        assert folders["command"] == [
            "sh",
            "-c",
            'mkdir -p -m 700 "$@" && chmod 700 "$@"',
            "folders",
            "/fleet",
            *made,
        ]
        assert folders["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert next(each for each in mounts if each["name"] == "repository")["readOnly"] is True
        labels = servers["spec"]["template"]["metadata"]["labels"]
        assert not {"ppipe/plan", "ppipe/epoch"} & labels.keys()


def test_sizes_are_of_as_many_workers_as_slices_twice(fleet_deployment: Deployment, fleet_plan: Plan) -> None:
    """Old workers and new ones are there together while a plan changes."""
    bundle = rendered(fleet_deployment, fleet_plan, options())
    (servers,) = documents(bundle["servers-street-t4-x2.yaml"])
    resources = servers["spec"]["template"]["spec"]["containers"][0]["resources"]
    # Two GPUs of two slices: eight stubs of 3 GiB at most, and the server.
    assert int(resources["limits"]["memory"].removesuffix("Mi")) > 512 + 8 * 3072
    settings = json.loads(bundle["launch/servers.json"])["servers"]
    assert settings["street-t4-x2-0"]["mps"] is True
    assert settings["street-entry-server-0"]["revisions"] == "/tmp/ppipe-revisions"
    assert {each["fleet"] for each in settings.values()} == {"/fleet"}
    assert [each["models"] for each in settings.values()] == [[]] * len(settings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"repository": {"kind": "claim", "claim": "shared", "sub_path": "street/repo"}},
            "must be 'street/repository'",
        ),
        ({"repository": {"kind": "object-store", "remote": ":s3:bucket/x"}}, "expected 'claim'"),
        ({"operator": {"work": "../x"}}, "operator.work"),
    ],
)
def test_what_it_cannot_work_with_is_refused(
    fleet_deployment: Deployment, fleet_plan: Plan, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BundleFault, match=said):
        rendered(fleet_deployment, fleet_plan, options(**changes))


def test_compose_has_it_too(fleet_deployment: Deployment, fleet_plan: Plan) -> None:
    chosen = ComposeOptions.model_validate(
        {"image": "ppipe:1", "repository": "./street/repository", "operator": {"work": "./street"}}
    )
    texts = [
        render_compose(manifest_of(fleet_deployment, plan), fleet_deployment, plan, chosen)
        for plan in (fleet_plan, other_plan(fleet_deployment))
    ]
    assert texts[0] == texts[1], "a changed plan restarts no container"
    services = yaml.load(texts[0]["compose.yaml"], yaml.CSafeLoader)["services"]
    operator = services.pop("operator")
    assert operator["command"][:2] == ["ppipe", "operate"]
    assert operator["volumes"][0] == {"type": "bind", "source": "./street", "target": "/work"}
    assert (operator["read_only"], operator["cap_drop"]) == (True, ["ALL"])
    assert "ports" not in operator
    for service in services.values():
        (shared, own) = [each for each in service["volumes"] if each["target"].startswith("/fleet")]
        assert (shared["source"], shared["target"], shared["read_only"]) == ("./street/fleet", "/fleet", True)
        group = own["target"].removeprefix("/fleet/there/")
        assert own["source"] == f"./street/fleet/there/{group}"
        assert {each["bind"]["create_host_path"] for each in (shared, own)} == {False}
    wrong = chosen.model_copy(update={"repository": "./elsewhere"})
    with pytest.raises(BundleFault, match=r"repository must be '\./street/repository'"):
        render_compose(manifest_of(fleet_deployment, fleet_plan), fleet_deployment, fleet_plan, wrong)


def test_a_container_does_what_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, folder = tmp_path / "repository", tmp_path / "models"
    for model in ("a", "b", "chain"):
        (root / "groups" / "g" / model / "1").mkdir(parents=True)
        if model != "chain":
            (root / "groups" / "g" / model / "1" / "model.py").write_text(model)
    manifest = {"entry": {"name": "e", "models": []}, "servers": [{"name": "s", "models": ["a", "chain"]}]}
    (root / "deployment.json").write_text(json.dumps(manifest))
    models = launch.models_of(root / "deployment.json", "s")
    with pytest.raises(launch.LaunchFault, match="has no server 'x'"):
        launch.models_of(root / "deployment.json", "x")
    made = launch.make_models(folder, root, "groups/g", models)
    server = {"fleet": str(tmp_path / "fleet"), "folder": str(folder), "repository": "groups/g"}
    assert probe.asked(server | {"public": {}}) == {"a": "stage"}
    here = launch.PolledModels(os.getpid(), folder, root, "groups/g")
    does = agent.Agent(tmp_path / "fleet", "s", here, "g")
    does.look()
    asked = AskedModels(tmp_path / "fleet", "s", "g")
    assert asked.models() == {"a", "chain"}
    asked.add(["b", "missing"])
    does.look()
    assert {path.name for path in made.iterdir()} == {"a", "b", "chain"}
    assert "no model 'missing'" in asked.said(0)[0]
    (root / "deployment.json").write_text("{}")
    asked.remove(["a"])
    asked.add(["b"])
    does.look()
    assert {path.name for path in made.iterdir()} == {"b", "chain"}
    assert probe.asked(server | {"public": {"b": "public"}}) == {"b": "dispatcher"}
    assert not list(folder.glob(".away*"))


def test_of_what_the_operator_has_just_asked_for_no_answer_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models" / "g" / "new" / "1").mkdir(parents=True)
    (tmp_path / "models" / "g" / "new" / "1" / "model.py").touch()
    server = {"probe_host": "h", "http_port": 1, "public": {}, "fleet": "/fleet"}
    server |= {"folder": str(tmp_path / "models"), "repository": "g"}
    (tmp_path / "servers.json").write_text(json.dumps({"servers": {"a-0": server}}))
    monkeypatch.setattr(probe, "__file__", str(tmp_path / "probe.py"))
    monkeypatch.setattr("sys.argv", ["probe.py"])
    monkeypatch.setenv("PPIPE_SERVER", "a-0")

    def not_loaded(*question: Any) -> None:
        raise probe.NotLoaded("no metadata: 404")

    monkeypatch.setattr(probe, "probe", not_loaded)
    probe.main()
    assert capsys.readouterr().out == "new: not loaded\n"
