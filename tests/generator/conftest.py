"""A small deployment, its profile and a plan, by hand: two classes, a stage on slices after one on a GPU."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.deployment import Deployment, parse_deployment
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan, Stage
from planner.profile import LatencyTable, ModelProfile, Profile, Source, TensorSpec

BATCHES = (1, 2, 4)
SPLIT = "ca36e2"
FAST = f"net.{SPLIT}.b0-2.fast-0.g0.s0of1"
SLOW = tuple(f"net.{SPLIT}.b2-3.slow-0.{at}" for at in ("g0.s0of2", "g0.s1of2", "g1.s0of2"))
WHOLE = f"net.{SPLIT}.b0-3.fast-1.g0.s0of1"
"""Names of the workers of `plan`."""


def deployment_data() -> dict[str, Any]:
    """deployment.yaml as plain data."""
    return {
        "name": "street",
        "cluster": {
            "base_port": 21000,
            "gpu_classes": [
                {"name": "fast", "executor": "cpu", "stated": {"gflop_per_s": 20, "gbyte_per_s": 2}},
                {"name": "slow", "executor": "cuda", "max_slices_per_gpu": 2},
            ],
            "groups": [
                {"gpu": "fast", "count": 2, "gpus_per_server": 1},
                {"gpu": "slow", "count": 1, "gpus_per_server": 2},
            ],
        },
        "models": [
            {
                "name": "net",
                "program": {"factory": "tests.nets:tiny"},
                "input": {"name": "image", "dtype": "FP32", "shape": [3, 8, 8]},
                "slo_ms": 100,
                "batch_sizes": list(BATCHES),
                "preprocess": {"kind": "jpeg"},
                "postprocess": {"task": "classification", "top_k": 2},
            }
        ],
    }


NETWORK = """
import torch

def make():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 5),
    )
"""


def real_deployment(source: Path) -> Deployment:
    """Of a network whose code is written to `source`, a module on the path, for two classes of CPU."""
    source.write_text(NETWORK)
    data = deployment_data()
    data["cluster"]["gpu_classes"][1] = {
        "name": "slow",
        "executor": "cpu",
        "stated": {"gflop_per_s": 4, "gbyte_per_s": 1},
    }
    data["models"][0] |= {"program": {"factory": f"{source.stem}:make"}, "blocks": 3}
    return parse_deployment(data, "test")


def table(gpu: str, slices: int, block_us: float) -> LatencyTable:
    """Three blocks that each take block_us per frame."""
    row = tuple(block_us * batch for batch in BATCHES)
    return LatencyTable(
        gpu=gpu,
        slices_per_gpu=slices,
        batch_sizes=BATCHES,
        latency_us=(row, row, row),
        source=Source.STATED,
    )


@pytest.fixture
def data() -> dict[str, Any]:
    return deployment_data()


@pytest.fixture
def deployment() -> Deployment:
    return parse_deployment(deployment_data(), "test")


@pytest.fixture
def emulated(data: dict[str, Any]) -> Deployment:
    """The same without programs, so that nothing is exported."""
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["executor"] = "emulated"
    return parse_deployment(data, "test")


@pytest.fixture
def profile() -> Profile:
    wide = TensorSpec(name="relu_1", dtype="FP32", shape=(4, 8, 8))
    narrow = TensorSpec(name="pool_1", dtype="FP32", shape=(4, 4, 4))
    return Profile(
        models=(
            ModelProfile(
                model="net",
                cut_bytes=(wide.bytes_per_frame, wide.bytes_per_frame + narrow.bytes_per_frame),
                tables=(table("fast", 1, 1000), table("slow", 1, 4000), table("slow", 2, 6000)),
                cut_tensors=((wide,), (wide, narrow)),
                inputs=(TensorSpec(name="image", dtype="FP32", shape=(3, 8, 8)),),
                outputs=(TensorSpec(name="logits", dtype="FP32", shape=(5,)),),
            ),
        )
    )


@pytest.fixture
def plan() -> Plan:
    """Not placed. Pipeline 0: a fast GPU, then three slices of slow ones; pipeline 1: a fast GPU alone."""
    split = Pipeline(
        stages=(
            Stage(
                blocks=BlockRange(0, 2),
                gpu="fast",
                slices_per_gpu=1,
                batch_size=2,
                workers=1,
                latency_us=4000,
            ),
            Stage(
                blocks=BlockRange(2, 3),
                gpu="slow",
                slices_per_gpu=2,
                batch_size=2,
                workers=3,
                latency_us=12000,
            ),
        ),
        transfer_us=(3.0,),
        throughput_rps=500.0,
    )
    whole = Pipeline(
        stages=(
            Stage(
                blocks=BlockRange(0, 3),
                gpu="fast",
                slices_per_gpu=1,
                batch_size=1,
                workers=1,
                latency_us=3000,
            ),
        ),
        transfer_us=(),
        throughput_rps=333.0,
    )
    model = ModelPlan(
        model="net", slo_us=100_000, slo_margin=0.4, pipelines=(split, whole), throughput_rps=833.0
    )
    return Plan(
        planner="by hand", objective=833.0, upper_bound=833.0, gap=0.0, solver="none", models=(model,)
    )


@pytest.fixture
def change_stage(plan: Plan) -> Callable[..., Plan]:
    """The plan with fields of one stage changed."""

    def change(pipeline: int, stage: int, **fields: Any) -> Plan:
        model = plan.models[0]
        pipelines = list(model.pipelines)
        stages = list(pipelines[pipeline].stages)
        stages[stage] = dataclasses.replace(stages[stage], **fields)
        pipelines[pipeline] = dataclasses.replace(pipelines[pipeline], stages=tuple(stages))
        return dataclasses.replace(plan, models=(dataclasses.replace(model, pipelines=tuple(pipelines)),))

    return change
