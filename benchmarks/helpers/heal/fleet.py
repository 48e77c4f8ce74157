"""A fleet for heal: two models on four stage servers of two classes, emulated, small enough for two cores.

Blocks are made up: the first are slow on slow GPUs, the last nearly as fast: plans have pipelines. The
deployment goes the way of any other: profile and plan are saved in its working folder, its repository is
generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from model_repo_generator.generate import generate
from planner.deployment import load_deployment
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.planning import plan as make_plan
from planner.problem import Problem
from planner.profile import LatencyTable, ModelProfile, Profile, Source, TensorSpec
from ppipe.rollout.deployed import Deployed
from ppipe.workspace import Workspace, save

BATCHES = (1, 2)
SLO_MS = 600
MODELS = ("cars", "faces")
SERVERS = ("fast-0", "fast-1", "slow-0", "slow-1")
_FAST_MS = {"cars": (9.0, 8.0, 8.0, 7.0), "faces": (7.0, 6.0, 5.0, 5.0)}
_SLOW_MS = {"cars": (45.0, 36.0, 16.0, 12.0), "faces": (32.0, 25.0, 10.0, 8.0)}
_WEIGHT_MIB, _ACTIVATION_MIB = 300, 20
"""Of one block, and of one frame in it."""
MEMORY_GIB = 16.0
"""Of a GPU, where both plans' workers are to fit; TIGHT_GIB: where they do not."""
TIGHT_GIB = 2.6
_FRAME = TensorSpec("frame", "FP32", (256,))
_CUT = TensorSpec("cut", "FP32", (1024,))
_SCORES = TensorSpec("scores", "FP32", (16,))


@dataclass(frozen=True)
class HealFleet:
    """The deployment and its file, generated. plan: that is served first."""

    file: Path
    deployed: Deployed
    problem: Problem
    plan: Plan
    manifest: DeploymentManifest


def make_fleet(
    root: Path,
    base_port: int,
    weights: Mapping[str, float] | None = None,
    memory_gib: float = MEMORY_GIB,
    cascade: Mapping[str, Any] | None = None,
    entries: int = 1,
) -> HealFleet:
    """Write the deployment's working folder. weights: what the first plan is for, by model. cascade: of both
    models, as deployment.yaml states it.
    """
    data = _deployment(base_port, memory_gib, entries)
    if cascade is not None:
        data["cascades"] = [dict(cascade)]
        for model in data["models"]:
            del model["slo_ms"]
    root.mkdir(parents=True, exist_ok=True)
    file = root / "deployment.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    deployment = load_deployment(file)
    profile = Profile(tuple(_profile(model) for model in MODELS))
    workspace = Workspace(root)
    problem = weighted(deployment.to_problem(profile), weights or {})
    plan = make_plan(problem, mode="fast")
    save(profile, workspace.profile)
    save(problem, workspace.problem)
    save(plan, workspace.plan)
    manifest = generate(deployment, profile, plan, workspace.repository)
    return HealFleet(file, Deployed(deployment, profile, workspace), problem, plan, manifest)


def weighted(problem: Problem, weights: Mapping[str, float]) -> Problem:
    """With these weights of models."""
    demands = tuple(
        replace(demand, weight=weights.get(demand.model, demand.weight), rate_rps=None)
        for demand in problem.demands
    )
    return replace(problem, demands=demands)


def _deployment(base_port: int, memory_gib: float, entries: int) -> dict[str, Any]:
    def gpu_class(name: str) -> dict[str, object]:
        return {"name": name, "executor": "emulated", "memory_gib": memory_gib, "max_slices_per_gpu": 1}

    def model(name: str) -> dict[str, object]:
        return {
            "name": name,
            "program": {"factory": "ensembles.zoo.pytorchcv_models:classifier"},
            "input": {"name": _FRAME.name, "dtype": "FP32", "shape": list(_FRAME.shape)},
            "slo_ms": SLO_MS,
            "batch_sizes": list(BATCHES),
        }

    return {
        "name": "heal",
        "cluster": {
            "base_port": base_port,
            **({"entries": entries} if entries > 1 else {}),
            "gpu_classes": [gpu_class("fast"), gpu_class("slow")],
            "groups": [
                {"gpu": "fast", "count": 2, "gpus_per_server": 1},
                {"gpu": "slow", "count": 2, "gpus_per_server": 2},
            ],
        },
        "models": [model(name) for name in MODELS],
        "planner": {"slo_margin": 0.4},
    }


def _profile(model: str) -> ModelProfile:
    blocks = len(_FAST_MS[model])
    return ModelProfile(
        model=model,
        cut_bytes=(_CUT.bytes_per_frame,) * (blocks - 1),
        tables=(_table("fast", _FAST_MS[model]), _table("slow", _SLOW_MS[model])),
        cut_tensors=((_CUT,),) * (blocks - 1),
        inputs=(_FRAME,),
        outputs=(_SCORES,),
        weight_bytes=(_WEIGHT_MIB << 20,) * blocks,
        activation_bytes=(_ACTIVATION_MIB << 20,) * blocks,
    )


def _table(gpu: str, block_ms: tuple[float, ...]) -> LatencyTable:
    rows = tuple(tuple(1000 * ms * batch**0.8 for batch in BATCHES) for ms in block_ms)
    return LatencyTable(gpu, 1, BATCHES, rows, Source.STATED)
