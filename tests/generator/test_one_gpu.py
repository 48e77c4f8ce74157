"""A placement, edited by hand, that puts two stages of a pipeline on the slices of one GPU."""

from __future__ import annotations

import dataclasses

import pytest

from model_repo_generator.generate import placed, render_once
from planner import serial
from planner.deployment import Deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import BlockRange, Plan, Stage
from planner.profile import Profile


@pytest.fixture
def both_on_one_gpu(deployment: Deployment, profile: Profile, plan: Plan) -> Plan:
    """Two stages of one worker each on the two slices of GPU 0 of the class with executor cuda."""
    stages = tuple(
        Stage(blocks=blocks, gpu="slow", slices_per_gpu=2, batch_size=2, workers=1, latency_us=12_000)
        for blocks in (BlockRange(0, 2), BlockRange(2, 3))
    )
    pipeline = dataclasses.replace(plan.models[0].pipelines[0], stages=stages, throughput_rps=100.0)
    model = dataclasses.replace(plan.models[0], pipelines=(pipeline,), throughput_rps=100.0)
    made = placed(dataclasses.replace(plan, models=(model,)), deployment, profile)
    assert made.placement is not None
    seats = tuple(
        dataclasses.replace(seat, gpu_id=0, slice_index=index)
        for index, seat in enumerate(made.placement.workers)
    )
    return dataclasses.replace(made, placement=dataclasses.replace(made.placement, workers=seats))


def test_its_chain_and_its_second_stage_keep_tensors_on_the_gpu(
    deployment: Deployment, profile: Profile, both_on_one_gpu: Plan
) -> None:
    files = render_once(deployment, profile, both_on_one_gpu).files
    (chain,) = serial.loads(DeploymentManifest, files[MANIFEST_NAME]).models[0].chains
    assert chain.gpu_id == 0
    first, second = (files[f"groups/slow/{worker}/config.pbtxt"] for worker in chain.workers)
    assert "FORCE_CPU_ONLY_INPUT_TENSORS" in second
    assert "FORCE_CPU_ONLY_INPUT_TENSORS" not in first


def test_as_placed_by_the_planner_stages_have_gpus_of_their_own(
    deployment: Deployment, profile: Profile, both_on_one_gpu: Plan
) -> None:
    plan = placed(dataclasses.replace(both_on_one_gpu, placement=None), deployment, profile)
    files = render_once(deployment, profile, plan).files
    assert not any("FORCE_CPU_ONLY_INPUT_TENSORS" in text for text in files.values())
