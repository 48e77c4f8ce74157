"""A plan of other cuts of the same split needs no export: its stages join the files that are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_repo_generator.generate import generate
from model_repo_generator.writing.write import LISTING, Listing, read_listing
from planner import serial
from planner.deployment import Deployment
from planner.manifest import DeploymentManifest
from planner.places import PLACE_NAME, StagePlace
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan, Stage
from planner.profile import Profile
from planner.profiling.networks.loading import load_network
from planner.profiling.run import ProfileOptions, profile_deployment
from ppipe.rollout.deployed import Deployed
from ppipe.rollout.preparing import make_ready
from ppipe.workspace import Workspace
from python_backend.stage.executors.base import make_executor
from tests.generator.conftest import real_deployment


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the network's code, which an export would need."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "rollout_programs_net.py"


@pytest.fixture
def deployment(source: Path) -> Deployment:
    return real_deployment(source)


def plan_of(profile: Profile, cut: int) -> Plan:
    """One pipeline, cut after `cut` blocks."""
    end = profile.model("net").block_count
    ways = ((BlockRange(0, cut), "fast"), (BlockRange(cut, end), "slow"))
    stages = tuple(
        Stage(blocks=blocks, gpu=gpu, slices_per_gpu=1, batch_size=1, workers=1, latency_us=1.0)
        for blocks, gpu in ways
    )
    pipeline = Pipeline(stages=stages, transfer_us=(1.0,), throughput_rps=1.0)
    model = ModelPlan(model="net", slo_us=100_000, slo_margin=0.4, pipelines=(pipeline,), throughput_rps=1.0)
    return Plan(planner="test", objective=1.0, upper_bound=1.0, gap=0.0, solver="none", models=(model,))


def answers(manifest: DeploymentManifest, repository: Path, frames: Any) -> Any:
    """Of the first worker of each stage, as they load from the repository."""
    values = [frames]
    (pipeline,) = manifest.models[0].served.pipelines
    for stage in pipeline.stages:
        worker = stage.workers[0]
        folder = repository / manifest.server(worker.server).repository / worker.name
        place = serial.load(StagePlace, folder / PLACE_NAME)
        assert (place.program.first_block, place.program.past_block) == (place.blocks.start, place.blocks.end)
        values = make_executor(place.program, repository, place.blocks.is_first).run(values)
    return values[0]


def test_another_cut_is_rolled_out_from_programs_that_nobody_can_write_or_export(
    deployment: Deployment, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = profile_deployment(deployment, options=ProfileOptions(check_stated=False))
    assert profile.model("net").block_count > 2, "there are several cuts"
    frames = np.random.default_rng(1).random((3, 3, 8, 8), np.float32)
    with torch.inference_mode():
        right = load_network(deployment.models[0])(torch.from_numpy(frames)).numpy()
    workspace = Workspace(tmp_path / "work")
    served = generate(deployment, profile, plan_of(profile, 1), workspace.repository)
    programs = workspace.repository / "programs"
    before = {path: path.read_bytes() for path in programs.iterdir()}
    for path in (programs, *before):
        path.chmod(0o555 if path.is_dir() else 0o444)
    source.write_text("raise RuntimeError('the network is not there any more')")
    monkeypatch.delitem(sys.modules, source.stem)
    target = make_ready(Deployed(deployment, profile, workspace), plan_of(profile, 2))
    assert {path: path.read_bytes() for path in programs.iterdir()} == before
    hashes = {
        program.program_sha256
        for manifest in (served, target)
        for row in manifest.models[0].programs
        for program in row
    }
    assert len(hashes) == 1, "one split, one list"
    assert "" not in hashes
    assert {worker for row in (served, target) for worker in names(row)} > set(names(served))
    for manifest in (served, target):
        np.testing.assert_allclose(answers(manifest, workspace.repository, frames), right, atol=1e-5)


def test_what_a_killed_rollout_left_is_listed_and_used_with_its_hash(
    deployment: Deployment, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are put in place first, then listed."""
    profile = profile_deployment(deployment, options=ProfileOptions(check_stated=False))
    workspace = Workspace(tmp_path / "work")
    generate(deployment, profile, plan_of(profile, 1), workspace.repository)
    deployed = Deployed(deployment, profile, workspace)
    whole = make_ready(deployed, plan_of(profile, 2))
    listing = read_listing(workspace.repository)
    assert listing is not None
    served = serial.load(DeploymentManifest, workspace.repository / "deployment.json")
    old = {name for name in names(whole) if name in names(served)}
    left = {
        path: file
        for path, file in listing.files.items()
        if not path.startswith("programs/")
        and not any(name in path for name in names(whole) if name not in old)
    }
    assert len(left) < len(listing.files)
    serial.save(Listing(left), workspace.repository / LISTING)
    source.write_text("raise RuntimeError('the network is not there any more')")
    monkeypatch.delitem(sys.modules, source.stem)
    assert make_ready(deployed, plan_of(profile, 2)) == whole
    assert read_listing(workspace.repository) == listing


def names(manifest: DeploymentManifest) -> list[str]:
    return [worker.name for _, worker in manifest.models[0].served.workers()]
