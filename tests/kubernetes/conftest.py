"""A fleet for a cluster, by hand: whole L4s, T4s in halves of which one server is idle, an emulated class."""

import copy
import json
from typing import Any

import pytest

from model_repo_generator.generate import placed, serving_tables
from model_repo_generator.kubernetes import KubernetesOptions, render_bundle
from model_repo_generator.render import render
from planner.deployment import Deployment, parse_deployment
from planner.manifest import DeploymentManifest
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan, Stage
from planner.profile import LatencyTable, ModelProfile, Profile, Source, TensorSpec

BATCHES = (1, 2, 4)
PORTS = {"http_port": 8000, "grpc_port": 8001, "metrics_port": 8002}
WIDE = TensorSpec(name="relu_1", dtype="FP32", shape=(16, 32, 32))
IMAGE = TensorSpec(name="image", dtype="FP32", shape=(3, 32, 32))
LOGITS = TensorSpec(name="logits", dtype="FP32", shape=(10,))


def servers(gpu: str, count: int) -> list[dict[str, Any]]:
    return [
        {"name": f"{gpu}-{index}", "host": f"street-{gpu.lower()}-{index}", **PORTS} for index in range(count)
    ]


def deployment_data() -> dict[str, Any]:
    """deployment.yaml of a Kubernetes fleet, as plain data."""
    return {
        "name": "street",
        "cluster": {
            "gpu_classes": [
                {"name": "L4"},
                {"name": "T4", "max_slices_per_gpu": 2},
                {"name": "fake", "executor": "emulated", "stated": {"gflop_per_s": 20, "gbyte_per_s": 2}},
            ],
            "groups": [
                {"gpu": "L4", "gpus_per_server": 1, "servers": servers("L4", 2)},
                {"gpu": "T4", "gpus_per_server": 2, "servers": servers("T4", 3)},
                {"gpu": "fake", "gpus_per_server": 1, "servers": servers("fake", 1)},
            ],
            "entry": {"host": "street-entry", **PORTS, "feedback_port": 8100},
        },
        "models": [
            {
                "name": name,
                "program": {"factory": "tests.nets:tiny"},
                "input": {"name": "image", "dtype": "FP32", "shape": [3, 32, 32]},
                "slo_ms": 100,
                "batch_sizes": list(BATCHES),
                "preprocess": {"kind": "jpeg"},
                "postprocess": {"task": "classification", "top_k": 2},
            }
            for name in ("cars", "faces")
        ],
    }


def model_profile(name: str) -> ModelProfile:
    """Two blocks of a millisecond per frame."""
    return ModelProfile(
        model=name,
        cut_bytes=(WIDE.bytes_per_frame,),
        tables=tuple(
            LatencyTable(
                gpu=gpu,
                slices_per_gpu=slices,
                batch_sizes=BATCHES,
                latency_us=(tuple(1000.0 * batch for batch in BATCHES),) * 2,
                source=Source.STATED,
            )
            for gpu, slices in (("L4", 1), ("T4", 1), ("T4", 2), ("fake", 1))
        ),
        cut_tensors=((WIDE,),),
        inputs=(IMAGE,),
        outputs=(LOGITS,),
    )


def stage(start: int, end: int, gpu: str, slices: int, workers: int, batch: int = 2) -> Stage:
    return Stage(
        blocks=BlockRange(start, end),
        gpu=gpu,
        slices_per_gpu=slices,
        batch_size=batch,
        workers=workers,
        latency_us=1000.0 * batch * (end - start),
    )


def hand_made_plan() -> Plan:
    """cars: an L4, then three halves of T4s; faces: an L4 alone, and an emulated GPU alone."""
    split = Pipeline(
        stages=(stage(0, 1, "L4", 1, 1), stage(1, 2, "T4", 2, 3)), transfer_us=(50.0,), throughput_rps=900.0
    )
    whole = [
        Pipeline(stages=(stage(0, 2, gpu, 1, 1, batch=1),), transfer_us=(), throughput_rps=450.0)
        for gpu in ("L4", "fake")
    ]
    models = tuple(
        ModelPlan(model=name, slo_us=100_000, slo_margin=0.4, pipelines=pipelines, throughput_rps=900.0)
        for name, pipelines in (("cars", (split,)), ("faces", tuple(whole)))
    )
    return Plan(planner="hand", objective=1.0, upper_bound=1.0, gap=0.0, solver="none", models=models)


def manifest_of(
    deployment: Deployment, plan: Plan, models: tuple[ModelProfile, ...] | None = None
) -> DeploymentManifest:
    """What deployment.json says of a placed plan."""
    profile = Profile(models=models or (model_profile("cars"), model_profile("faces")))
    served = serving_tables(deployment, profile, plan)
    versions = {"python": "3.11", "torch": "2.13.0"}
    return render(deployment, profile, plan, served, versions=versions).manifest


@pytest.fixture(scope="session")
def fleet_data() -> dict[str, Any]:
    return copy.deepcopy(deployment_data())


@pytest.fixture(scope="session")
def fleet_deployment() -> Deployment:
    return parse_deployment(deployment_data(), "test")


@pytest.fixture(scope="session")
def fleet_plan(fleet_deployment: Deployment) -> Plan:
    profile = Profile(models=(model_profile("cars"), model_profile("faces")))
    return placed(hand_made_plan(), fleet_deployment, profile)


@pytest.fixture(scope="session")
def fleet_manifest(fleet_deployment: Deployment, fleet_plan: Plan) -> DeploymentManifest:
    return manifest_of(fleet_deployment, fleet_plan)


@pytest.fixture(scope="session")
def options() -> KubernetesOptions:
    return KubernetesOptions(image="registry.example/ppipe:24.10", namespace="vision")


@pytest.fixture(scope="session")
def bundle(
    fleet_manifest: DeploymentManifest,
    fleet_deployment: Deployment,
    fleet_plan: Plan,
    options: KubernetesOptions,
) -> dict[str, str]:
    return render_bundle(fleet_manifest, fleet_deployment, fleet_plan, options)


@pytest.fixture(scope="session")
def launched(bundle: dict[str, str]) -> dict[str, Any]:
    """servers.json by pod name."""
    found: dict[str, Any] = json.loads(bundle["launch/servers.json"])["servers"]
    return found
