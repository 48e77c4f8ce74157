"""Executor options go from deployment and profile into the manifest, and must be the profile's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from model_repo_generator.checking.fit import PlanFault
from model_repo_generator.generate import placed, render_once
from planner.cluster import Executor
from planner.deployment import parse_deployment
from planner.execution import ExecutorOptions, Precision
from planner.memory import SERVER_BYTES
from planner.plan import Plan
from planner.profile import Profile

HALF = ExecutorOptions(precision=Precision.FP16, cuda_graphs=True)


def test_the_manifest_has_the_options_the_error_and_the_workers_memory(
    data: dict[str, Any], profile: Profile, plan: Plan
) -> None:
    data["models"][0]["executor_options"] = {"precision": "fp16", "cuda_graphs": True}
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["memory_gib"] = 8
    deployment = parse_deployment(data, "test")
    measured = Profile(models=tuple(replace(m, options=HALF, precision_error=1e-3) for m in profile.models))
    manifest = render_once(deployment, measured, placed(plan, deployment, measured)).manifest
    (entry,) = manifest.models
    seen = set()
    for pipeline, programs in zip(entry.served.pipelines, entry.programs, strict=True):
        for stage, program in zip(pipeline.stages, programs, strict=True):
            assert program.options == HALF
            assert program.precision_error == 1e-3
            server = 0 if program.executor is Executor.CPU else SERVER_BYTES
            assert program.memory_bytes == ((8 << 30) - server) // stage.slices_per_gpu
            seen.add(stage.slices_per_gpu)
    assert seen == {1, 2}


def test_options_changed_after_profiling_are_refused(
    data: dict[str, Any], profile: Profile, plan: Plan
) -> None:
    data["models"][0]["executor_options"] = {"precision": "bf16"}
    deployment = parse_deployment(data, "test")
    with pytest.raises(PlanFault, match="model 'net': executor_options have changed since it was profiled"):
        placed(plan, deployment, profile)
