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
from planner.plan import Plan
from planner.profile import Profile
from tests.generator.conftest import SLOW, cut_after_one


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
    before = {path: (out / path).read_text() for path in (f"groups/slow/{SLOW[2]}/config.pbtxt",)}
    new = generate_beside(emulated, profile, other_plan, out)
    assert (old.epoch, new.epoch) == (1, 2)
    assert serial.load(DeploymentManifest, out / "deployment.1.json") == old
    assert serial.load(DeploymentManifest, out / "deployment.json") == new
    assert {path: (out / path).read_text() for path in before} == before
    loaded = {name for server in new.servers for name in server.models}
    assert loaded < {name for server in old.servers for name in server.models}, "workers that stay, by name"
    assert old.entry.models == new.entry.models == ("net", "net_body")
    assert versions(out, "groups/entry/net") == ["1"], "the dispatcher takes the new table in place"
    assert [model.feedback_port for model in old.models] == [model.feedback_port for model in new.models]
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
    assert not (out / f"groups/slow/{SLOW[2]}").exists()
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
    before = {path: path.read_bytes() for path in (out / "groups").rglob("*") if path.is_file()}
    new = generate_beside(emulated, profile, cut_after_one(change_stage), out)
    assert {path: path.read_bytes() for path in before} == before
    added = {path.parent.name for path in (out / "groups").glob("*/*/place.json") if path not in before}
    assert added == {name for server in new.servers for name in server.models if ".b0-3." not in name}
    assert [tensor.name for tensor in new.models[0].programs[0][1].inputs] == ["relu_1"]


def test_a_corrected_profile_is_no_obstacle(
    emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    """Kept workers go on as they are."""
    out = tmp_path / "repository"
    generate(emulated, profile, plan, out)
    (model,) = profile.models
    slower = tuple(
        dataclasses.replace(table, latency_us=tuple(tuple(2 * us for us in row) for row in table.latency_us))
        for table in model.tables
    )
    corrected = Profile(models=(dataclasses.replace(model, tables=slower),))
    pipelines = tuple(
        dataclasses.replace(
            pipeline,
            stages=tuple(
                dataclasses.replace(stage, latency_us=2 * stage.latency_us) for stage in pipeline.stages
            ),
        )
        for pipeline in plan.models[0].pipelines
    )
    slow_plan = dataclasses.replace(plan, models=(dataclasses.replace(plan.models[0], pipelines=pipelines),))
    new = generate_beside(emulated, corrected, slow_plan, out)
    assert new.models[0].served.pipelines[0].stages[0].latency_us[0] > 3_000


def test_lint_knows_both_revisions(
    emulated: Deployment, profile: Profile, plan: Plan, other_plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "repository"
    generate(emulated, profile, plan, out)
    generate_beside(emulated, profile, other_plan, out)
    assert lint(out) == ()
    (out / f"groups/slow/{SLOW[2]}/config.pbtxt").unlink()
    assert [(finding.code, finding.model) for finding in lint(out)][:1] == [("config-missing", SLOW[2])]


def test_memory_is_that_of_both_revisions_while_both_are_loaded(
    data: dict[str, Any],
    profile: Profile,
    plan: Plan,
    other_plan: Plan,
    change_stage: Callable[..., Plan],
    tmp_path: Path,
) -> None:
    """Each fits by itself: a half GPU per worker of the slow class. Workers of both are loaded once."""
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
    assert found() == set()
    generate(deployment, profile, other_plan, out, export=False, epoch=2)
    generate_beside(deployment, profile, cut_after_one(change_stage), out, export=False)
    assert found() == {"gpu-memory"}
