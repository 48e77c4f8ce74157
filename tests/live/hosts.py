"""Hosts of their own for live tests: network namespaces, each running `ppipe serve --host`."""

from __future__ import annotations

import pytest

from benchmarks.helpers.machines.hosts import Host, hosts, why_not
from benchmarks.helpers.machines.links import Link
from benchmarks.helpers.machines.served_hosts import HostsServed, serve_on_hosts
from ensembles.graphs import frame_input
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage
from planner.frames import FrameSize
from planner.ingress import PrepareRecipe
from planner.profile import TensorSpec

__all__ = ["Host", "HostsServed", "Link", "hosts", "jpeg_model", "require_hosts", "serve_on_hosts"]
_SIZE = 320


def require_hosts() -> None:
    """Skip the test where this machine cannot make hosts."""
    if reason := why_not():
        pytest.skip(reason)


def jpeg_model() -> EmulatedModel:
    """Of two stages on hosts a and b: the first has a worker on each, the second on b."""
    recipe = PrepareRecipe(
        kind="jpeg",
        frame=frame_input("jpeg"),
        channels=3,
        height=_SIZE,
        width=_SIZE,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        planned=FrameSize(640, 480, 60_000),
    )
    latency_us = (4_000, 5_000)
    stages = (
        EmulatedStage(latency_us, ("a", "b"), (TensorSpec("cut", "FP32", (20_000,)),)),
        EmulatedStage(latency_us, ("b",), (TensorSpec("scores", "FP32", (16,)),)),
    )
    return EmulatedModel(
        name="net",
        slo_us=400_000,
        planned_rps=50.0,
        input=TensorSpec("image", "FP32", (3, _SIZE, _SIZE)),
        pipelines=(EmulatedPipeline(2, stages, ((8_000, 16_000),)),),
        prepare=recipe,
    )
