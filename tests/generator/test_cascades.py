"""Cascades in repositories: their part of deployment.json, their Triton models, plans that do not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.checking.fit import PlanFault
from model_repo_generator.generate import generate, placed, render_once
from model_repo_generator.monitoring.prometheus import render_prometheus
from model_repo_generator.rehearsal import Rehearsal, rehearsed
from planner import serial
from planner.cascades.demands import divided_as_planned, planned_cascades
from planner.deployment import Deployment, parse_deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest, EntryPorts
from planner.plan import Plan
from planner.profile import Profile, TensorSpec
from planner.sharding import plan_shards
from planner.streams import StreamPolicy
from ppipe.cli import run
from ppipe.serving.server_command import wanted_ports
from tests.golden import cases

SLO_MS = 250
PARTS_US = {"boxes": 150_000, "kinds": 100_000}


def deployment(entries: int = 1, **cascade: Any) -> Deployment:
    classes = [{"name": "L4", "executor": "emulated", "stated": cases.SPEED}]
    data = cases.deployment(classes, [{"gpu": "L4", "count": 1, "gpus_per_server": 3}])
    if entries > 1:
        data["cluster"]["entries"] = entries
    (model,) = data["models"]
    del model["slo_ms"]
    detector = model | {"name": "boxes", "postprocess": {"task": "detection", "max_boxes": 6}}
    classifier = model | {"name": "kinds", "postprocess": {"task": "classification", "top_k": 2}}
    members = [{"model": "boxes"}, {"model": "kinds", "of": "boxes", "count": 2, "most": 6}]
    data["models"] = [detector, classifier]
    data["cascades"] = [{"name": "street", "slo_ms": SLO_MS, "models": members} | cascade]
    return parse_deployment(data, "made")


def profile() -> Profile:
    kinds = cases.network("kinds", {("L4", 1): 1000})
    found = (TensorSpec("boxes", "FP32", (20, 4)), TensorSpec("scores", "FP32", (20, 3)))
    boxes = dataclasses.replace(cases.network("boxes", {("L4", 1): 2000}), outputs=found)
    return Profile(models=(boxes, kinds))


def plan(made: Deployment | None = None) -> Plan:
    stages = {
        "boxes": (cases.stage(0, 1, "L4", 1, 1), cases.stage(1, 3, "L4", 1, 1)),
        "kinds": (cases.stage(0, 3, "L4", 1, 1),),
    }
    models = tuple(
        dataclasses.replace(cases.plan(name, steps).models[0], slo_us=PARTS_US[name])
        for name, steps in stages.items()
    )
    whole = dataclasses.replace(cases.plan("boxes", stages["boxes"]), models=models)
    problem = (made or deployment()).to_problem(profile())
    return dataclasses.replace(whole, cascades=planned_cascades(problem, whole))


def manifest_of(files: Any) -> DeploymentManifest:
    return serial.loads(DeploymentManifest, files[MANIFEST_NAME], MANIFEST_NAME)


def test_deployment_json_says_what_the_entry_must_know() -> None:
    made = deployment()
    rendered = render_once(made, profile(), placed(plan(), made, profile()))
    manifest = manifest_of(rendered.files)
    cascade = manifest.cascade("street")
    assert [(one.model, one.of, one.make, one.most, one.by_us) for one in cascade.members] == [
        ("boxes", "", "", 1, 150_000),
        ("kinds", "boxes", "crops", 6, 250_000),
    ]
    assert cascade.planned_rps == 250.0, "500 crops/s of two for each frame"
    assert manifest.model("kinds").longest_us == 5 * 1000 * SLO_MS
    assert manifest.model("boxes").served.slo_us == PARTS_US["boxes"]
    assert manifest.own_models == ()
    assert manifest.entry.models[-1] == "street"
    ports = [model.feedback_port for model in manifest.models]
    assert cascade.metrics_port == max(ports) + 1


def test_its_triton_model_takes_what_the_first_member_takes() -> None:
    made = deployment()
    files = render_once(made, profile(), placed(plan(), made, profile())).files
    config = text_format.Parse(files["groups/entry/street/config.pbtxt"], triton.ModelConfig())
    first = text_format.Parse(files["groups/entry/boxes/config.pbtxt"], triton.ModelConfig())
    assert list(config.input) == list(first.input)
    assert config.parameters["cascade"].string_value == "street"
    assert "python_backend.triton.cascade" in files["groups/entry/street/1/model.py"]
    outputs = {each.name: list(each.dims) for each in config.output}
    assert outputs == {
        "detected_boxes": [6, 4],
        "detected_scores": [6],
        "detected_classes": [6],
        "kinds.classes": [-1, 2],
        "kinds.scores": [-1, 2],
        "kinds.of": [-1],
        "kinds.row": [-1],
        "kinds.answered": [-1],
        "partial": [1],
        "missing": [-1],
    }


def test_a_rehearsal_stretches_it_too() -> None:
    made = deployment()
    small = rehearsed(made, profile(), plan(), Rehearsal(slower=3.0))
    manifest = manifest_of(render_once(*small).files)
    cascade = manifest.cascade("street")
    assert cascade.slo_us == 3000 * SLO_MS
    assert [member.by_us for member in cascade.members] == [450_000, 750_000]
    assert [manifest.time_us(member.model) for member in cascade.members] == [450_000, 750_000]
    assert cascade.planned_rps == pytest.approx(250 / 3)


def test_streams_are_the_cascades_and_its_first_model_decides_which_frames_are_served() -> None:
    made = deployment(streams={"order": "stream", "keep": "newest", "share": "weighted"})
    first, second = made.to_demands()
    assert first.streams == StreamPolicy(order="arrival", keep="newest", share="weighted")
    assert second.streams is None
    for one, in_order in ((made, True), (deployment(), False)):
        files = render_once(one, profile(), placed(plan(), one, profile())).files
        assert manifest_of(files).cascade("street").in_order == in_order
    assert [one.streams for one in deployment(streams={"order": "stream"}).to_demands()] == [None, None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slo_ms": 300}, "cascades.street.slo_ms: 300 in the deployment, but the plan was made for 250"),
        ({"name": "road"}, "cascades.road: the plan was made without it"),
    ],
)
def test_a_plan_of_another_cascade_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanFault, match=said):
        placed(plan(), deployment(**change), profile())


def test_its_repository_has_no_faults(tmp_path: Path) -> None:
    made = deployment()
    generate(made, profile(), plan(), tmp_path, export=False)
    assert run(["lint", str(tmp_path), "--strict"]) == 0


@pytest.fixture
def of_two() -> tuple[Deployment, Plan]:
    """Two entries; of one worker each, models have one shard, and each model another home."""
    made = deployment(entries=2)
    whole = placed(plan(deployment()), deployment(), profile())
    shards = plan_shards(whole, divided_as_planned(made.to_problem(profile()), whole))
    return made, placed(dataclasses.replace(whole, shards=shards), made, profile())


def test_two_entries_serve_it_each(of_two: tuple[Deployment, Plan], tmp_path: Path) -> None:
    made, sharded = of_two
    generate(made, profile(), sharded, tmp_path, export=False)
    assert run(["lint", str(tmp_path), "--strict"]) == 0
    manifest = serial.load(DeploymentManifest, tmp_path / MANIFEST_NAME)
    assert [entry.models[-1] for entry in manifest.entries] == ["street", "street"]
    assert [len(model.shards) for model in manifest.models] == [1, 1]
    assert {model.shards[0].order[0] for model in manifest.models} == {"entry-0", "entry-1"}
    pages = [(entry.host, *manifest.cascade_ports(entry.name).values()) for entry in manifest.entries]
    assert len(set(pages)) == 2
    ports = wanted_ports(manifest, manifest.every_server)
    assert len({(use.host, use.port, use.udp) for use in ports}) == len(ports)
    found = [(use.host, use.port) for use in ports if use.field == "metrics port of cascade 'street'"]
    assert found == pages
    targets = json.loads(render_prometheus(manifest)["targets.json"])
    shown = {each["labels"]["pod"]: each["targets"] for each in targets}
    for entry, (host, port) in zip(manifest.entries, pages, strict=True):
        assert f"{host}:{port}" in shown[entry.name]


def test_another_entry_has_its_page_beside_its_own_dispatchers() -> None:
    made = deployment()
    manifest = manifest_of(render_once(made, profile(), placed(plan(), made, profile())).files)
    other = EntryPorts(dataclasses.replace(manifest.entry, name="b"), {"boxes": 30_001, "kinds": 30_002})
    seen = dataclasses.replace(manifest, more_entries=(other,)).seen_from("b")
    assert seen.cascade("street").metrics_port == 30_003
