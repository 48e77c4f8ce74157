"""A new revision beside the served one: both whole, until the new one is generated alone."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_repo_generator.beside import BesideFault, generate_beside
from model_repo_generator.bundle import bundle_files
from model_repo_generator.checking.diff import Change, diff
from model_repo_generator.checking.on_disk import check
from model_repo_generator.generate import generate
from model_repo_generator.lint import Context, lint
from model_repo_generator.write import WriteFault
from planner import serial
from planner.deployment import Deployment, parse_deployment
from planner.manifest import DeploymentManifest
from planner.plan import BlockRange, Plan
from planner.profile import Profile


@pytest.fixture
def other_plan(plan: Plan, change_stage: Callable[..., Plan]) -> Plan:
    """Fewer workers, so that names of workers recur with other meanings."""
    return change_stage(0, 1, workers=2)


def versions(repository: Path, model: str) -> list[str]:
    return sorted(path.name for path in (repository / model).iterdir() if path.is_dir())


def test_both_revisions_are_whole(
    emulated: Deployment, profile: Profile, plan: Plan, other_plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "repository"
    old = generate(emulated, profile, plan, out)
    before = {path: (out / path).read_text() for path in ("groups/slow/net.p0.s1.w2/config.pbtxt",)}
    new = generate_beside(emulated, profile, other_plan, out)
    assert (old.epoch, new.epoch) == (1, 2)
    assert serial.load(DeploymentManifest, out / "deployment.1.json") == old
    assert serial.load(DeploymentManifest, out / "deployment.json") == new
    assert {path: (out / path).read_text() for path in before} == before
    assert "net.r2.p0.s1.w0" in {name for server in new.servers for name in server.models}
    assert old.entry.models == new.entry.models == ("net", "net_body")
    assert versions(out, "groups/entry/net") == ["1", "2"], "the older revision's, and the newer's"
    assert versions(out, "groups/entry/net_body") == ["2"]
    assert {model.feedback_port for model in old.models}.isdisjoint(
        model.feedback_port for model in new.models
    )
    assert check(emulated, profile, other_plan, out) == ()


def test_generating_the_new_revision_alone_ends_the_older_one(
    emulated: Deployment, profile: Profile, plan: Plan, other_plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "repository"
    generate(emulated, profile, plan, out)
    beside = generate_beside(emulated, profile, other_plan, out)
    alone = generate(emulated, profile, other_plan, out, epoch=2)
    assert alone == beside
    assert not list(out.glob("deployment.*.json"))
    assert versions(out, "groups/entry/net") == ["2"]
    assert check(emulated, profile, other_plan, out) == ()


def test_diff_counts_a_worker_of_two_revisions_once(
    emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    generate(emulated, profile, plan, tmp_path / "one")
    generate(emulated, profile, plan, tmp_path / "two", epoch=2)
    assert {row.change for row in diff(tmp_path / "one", tmp_path / "two")} == {Change.KEPT}


def test_a_third_revision_waits(emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    generate(emulated, profile, plan, out)
    generate_beside(emulated, profile, plan, out)
    with pytest.raises(BesideFault, match="revision 1 is still there"):
        generate_beside(emulated, profile, plan, out)


def test_other_answers_are_refused(
    data: dict[str, Any], emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    """They change the dispatcher's configuration, and Triton would start the running version anew."""
    out = tmp_path / "repository"
    old = generate(emulated, profile, plan, out)
    data["models"][0]["postprocess"]["top_k"] = 3
    with pytest.raises(BesideFault, match=r"models\.net\.postprocess is not what revision 1 was made with"):
        generate_beside(parse_deployment(data, "test"), profile, plan, out)
    data["models"][0]["postprocess"]["top_k"] = 2
    data["models"][0]["preprocess"]["preset"] = "yolo"
    with pytest.raises(BesideFault, match=r"models\.net\.preprocess is not what revision 1 was made with"):
        generate_beside(parse_deployment(data, "test"), profile, plan, out)
    assert serial.load(DeploymentManifest, out / "deployment.json") == old


def test_another_copy_of_the_run_time_is_refused_and_nothing_is_written(
    emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "repository"
    old = generate(emulated, profile, plan, out, self_contained=True)
    changed = bundle_files() | {"runtime/planner/serial.py": "changed"}
    monkeypatch.setattr("model_repo_generator.generate.bundle_files", lambda: changed)
    with pytest.raises(BesideFault, match=r"runtime/planner/serial\.py: revision 1 needs it otherwise"):
        generate_beside(emulated, profile, plan, out)
    assert serial.load(DeploymentManifest, out / "deployment.json") == old


def test_there_must_be_one_to_be_beside(
    emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    with pytest.raises(WriteFault, match="no generated repository to put a revision beside"):
        generate_beside(emulated, profile, plan, tmp_path / "none")


def test_other_blocks_are_no_obstacle(
    emulated: Deployment, profile: Profile, plan: Plan, change_stage: Callable[..., Plan], tmp_path: Path
) -> None:
    """Stages of two revisions may have other tensors: their names differ."""
    out = tmp_path / "repository"
    generate(emulated, profile, plan, out)
    moved = change_stage(0, 0, blocks=BlockRange(0, 1))
    pipelines = moved.models[0].pipelines
    stages = (
        pipelines[0].stages[0],
        dataclasses.replace(pipelines[0].stages[1], blocks=BlockRange(1, 3)),
    )
    model = dataclasses.replace(
        moved.models[0], pipelines=(dataclasses.replace(pipelines[0], stages=stages), *pipelines[1:])
    )
    new = generate_beside(emulated, profile, dataclasses.replace(moved, models=(model,)), out)
    assert [tensor.name for tensor in new.models[0].programs[0][1].inputs] == ["relu_1"]


def test_lint_knows_both_revisions(
    emulated: Deployment, profile: Profile, plan: Plan, other_plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "repository"
    generate(emulated, profile, plan, out)
    generate_beside(emulated, profile, other_plan, out)
    assert lint(out) == ()
    (out / "groups/slow/net.p0.s1.w2/config.pbtxt").unlink()
    assert [(finding.code, finding.model) for finding in lint(out)][:1] == [
        ("config-missing", "net.p0.s1.w2")
    ]


def test_memory_is_that_of_both_revisions_while_both_are_loaded(
    data: dict[str, Any], profile: Profile, plan: Plan, other_plan: Plan, tmp_path: Path
) -> None:
    """Each fits by itself: a half GPU per worker of the slow class."""
    data["cluster"]["gpu_classes"][1]["memory_gib"] = 4
    deployment = parse_deployment(data, "test")
    (model,) = profile.models
    profile = Profile(
        models=(dataclasses.replace(model, weight_bytes=(0, 0, 1 << 30), activation_bytes=(0,) * 3),)
    )
    known = Context(cluster=deployment.to_cluster(), profile=profile)
    out = tmp_path / "repository"

    def found() -> set[str]:
        return {finding.code for finding in lint(out, context=known)} - {"manifest-program"}

    generate(deployment, profile, plan, out, export=False)
    assert found() == set()
    generate_beside(deployment, profile, other_plan, out, export=False)
    assert found() == {"gpu-memory"}
