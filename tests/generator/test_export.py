"""The programs of a split: exported once, for any plan of it, and only of the network that was profiled."""

import dataclasses
from pathlib import Path

import pytest

from model_repo_generator.checking.on_disk import check
from model_repo_generator.comparison.plain import generate_plain
from model_repo_generator.export import Exporter, ExportFault, planned_programs
from model_repo_generator.generate import generate
from model_repo_generator.writing.write import hash_file
from planner import serial
from planner.deployment import Deployment
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan, Stage
from planner.profile import Profile
from planner.profiling.run import ProfileOptions, profile_deployment
from planner.programs import ProgramList
from tests.generator.conftest import real_deployment


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.syspath_prepend(tmp_path)
    return real_deployment(tmp_path / "generator_export_net.py")


@pytest.fixture
def measured(real: Deployment) -> Profile:
    return profile_deployment(real, options=ProfileOptions(check_stated=False))


def plan_of(profile: Profile) -> Plan:
    """Two pipelines that share their first stage's blocks."""
    end = profile.model("net").block_count
    parts = {"front": (BlockRange(0, 1), "fast"), "back": (BlockRange(1, end), "slow")}
    stages = tuple(
        Stage(blocks=blocks, gpu=gpu, slices_per_gpu=1, batch_size=1, workers=1, latency_us=1.0)
        for blocks, gpu in parts.values()
    )
    pipeline = Pipeline(stages=stages, transfer_us=(1.0,), throughput_rps=1.0)
    model = ModelPlan(
        model="net", slo_us=100_000, slo_margin=0.4, pipelines=(pipeline, pipeline), throughput_rps=2.0
    )
    return Plan(planner="test", objective=1.0, upper_bound=1.0, gap=0.0, solver="none", models=(model,))


def test_a_split_is_exported_once_a_file_for_each_block_and_kept_by_its_hash(
    real: Deployment, measured: Profile, tmp_path: Path
) -> None:
    plan, count = plan_of(measured), measured.model("net").block_count
    (wanted,) = planned_programs(real, measured, plan)
    assert len(wanted.paths) == 1 + count
    with Exporter(real, measured) as exporter:
        manifest = generate(real, measured, plan, tmp_path / "one", exporter=exporter)
        assert exporter.programs([wanted])[wanted.list_path].stat().st_nlink > 1, "made once, linked"
        generate_plain(real, measured, tmp_path / "plain", exporter=exporter)
    sha256 = hash_file(tmp_path / "one" / wanted.list_path)
    assert {
        (program.program, program.program_sha256, program.first_block, program.past_block)
        for row in manifest.models[0].programs
        for program in row
    } == {(wanted.list_path, sha256, 0, 1), (wanted.list_path, sha256, 1, count)}
    listed = serial.load(ProgramList, tmp_path / "one" / wanted.list_path)
    assert listed.split == measured.model("net").split
    for block, path in zip(listed.blocks, wanted.block_paths, strict=True):
        assert block.sha256 == hash_file(tmp_path / "one" / path)
    other = generate(real, measured, plan, tmp_path / "two")
    assert other == manifest, "the same bytes from another export"
    assert hash_file(tmp_path / "plain" / wanted.list_path) == sha256
    assert check(real, measured, plan, tmp_path / "one") == ()
    (tmp_path / "one" / wanted.block_paths[0]).unlink()
    (missing,) = check(real, measured, plan, tmp_path / "one")
    assert missing.path == wanted.block_paths[0]


def test_stages_too_large_for_an_onnx_file_are_told_before_anything_is_exported(
    real: Deployment, measured: Profile
) -> None:
    count = measured.model("net").block_count
    large = dataclasses.replace(measured.models[0], weight_bytes=(1 << 30,) * count)
    spec = real.models[0]
    onnx = spec.program.model_copy(update={"onnx": Path("net.onnx"), "factory": None})
    changed = real.model_copy(update={"models": (spec.model_copy(update={"program": onnx}),)})
    with pytest.raises(ExportFault, match=r"of blocks 1 to \d are 2\.0 GiB, and an ONNX stage holds 2"):
        planned_programs(changed, Profile(models=(large,)), plan_of(measured))


def test_a_model_that_is_not_the_profiled_one_is_refused_and_nothing_is_written(
    real: Deployment, measured: Profile, tmp_path: Path
) -> None:
    other = Profile(models=(dataclasses.replace(measured.models[0], split="0123"),))
    with pytest.raises(ExportFault, match=r"than when it was profiled \(0123\): profile and plan again"):
        generate(real, other, plan_of(measured), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
