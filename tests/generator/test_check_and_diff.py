"""`generate --check` and `ppipe diff`: what they find, and that they find nothing where nothing differs."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_repo_generator.checking.diff import Change, DiffFault, diff, format_table
from model_repo_generator.checking.on_disk import DifferenceKind, check, format_differences
from model_repo_generator.generate import generate, placed
from model_repo_generator.writing.write import WriteFault
from planner import serial
from planner.deployment import Deployment, parse_deployment
from planner.placement import Placement
from planner.plan import Plan
from planner.profile import Profile
from tests.generator.conftest import FAST, SLOW, SPLIT, WHOLE


@pytest.fixture
def repository(emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path) -> Path:
    generate(emulated, profile, plan, tmp_path / "repository", epoch=3)
    return tmp_path / "repository"


def test_a_fresh_repository_is_what_the_plan_gives(
    emulated: Deployment, profile: Profile, plan: Plan, repository: Path
) -> None:
    assert check(emulated, profile, plan, repository) == ()
    assert format_differences(()) == ""


def test_each_kind_of_difference_is_found(
    emulated: Deployment, profile: Profile, plan: Plan, repository: Path
) -> None:
    config = repository / f"groups/slow/{SLOW[1]}/config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 4", "max_batch_size: 8"))
    (repository / "groups/entry/net/config.pbtxt").unlink()
    (repository / "notes.txt").write_text("mine")
    found = check(emulated, profile, plan, repository)
    assert [(each.path, each.kind) for each in found] == [
        ("groups/entry/net/config.pbtxt", DifferenceKind.MISSING),
        (f"groups/slow/{SLOW[1]}/config.pbtxt", DifferenceKind.CHANGED),
        ("notes.txt", DifferenceKind.UNEXPECTED),
    ]
    text = format_differences(found)
    assert "-max_batch_size: 8\n+max_batch_size: 4" in text
    assert text.endswith("3 files differing from the plan")


def test_another_plan_is_found_with_the_models_that_are_too_many(
    emulated: Deployment, profile: Profile, repository: Path, change_stage: Callable[..., Plan]
) -> None:
    found = check(emulated, profile, change_stage(0, 1, workers=2), repository)
    unexpected = {each.path for each in found if each.kind is DifferenceKind.UNEXPECTED}
    assert unexpected == {
        f"groups/slow/{SLOW[2]}/1/model.py",
        f"groups/slow/{SLOW[2]}/config.pbtxt",
        f"groups/slow/{SLOW[2]}/place.json",
    }
    assert "deployment.json" in {each.path for each in found if each.kind is DifferenceKind.CHANGED}


def test_programs_are_checked_unless_they_are_kept_elsewhere(
    deployment: Deployment, profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "repository"
    generate(deployment, profile, plan, out, export=False)
    found = check(deployment, profile, plan, out)
    assert [(each.path, each.kind) for each in found] == [
        (f"programs/net.{SPLIT}.{of}", DifferenceKind.MISSING)
        for of in ("b0.pt2", "b1.pt2", "b2.pt2", "json")
    ]
    assert check(deployment, profile, plan, out, programs=False) == ()


def test_no_repository_is_an_error_of_its_own(
    emulated: Deployment, profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    with pytest.raises(WriteFault, match="no such folder"):
        check(emulated, profile, plan, tmp_path / "none")


def test_diff_tells_added_removed_moved_reloaded_and_kept(
    emulated: Deployment,
    profile: Profile,
    plan: Plan,
    repository: Path,
    change_stage: Callable[..., Plan],
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    smaller = placed(change_stage(0, 1, workers=2), emulated, profile)
    assert smaller.placement is not None
    swapped = {"fast-0": "fast-1", "fast-1": "fast-0", "slow-0": "slow-0"}
    moved = Placement(
        workers=tuple(
            dataclasses.replace(seat, server=swapped[seat.server]) for seat in smaller.placement.workers
        ),
        link_shares=tuple(
            dataclasses.replace(share, server=swapped[share.server])
            for share in smaller.placement.link_shares
        ),
    )
    generate(emulated, profile, dataclasses.replace(smaller, placement=moved), other, epoch=4)
    rows = {row.name: row for row in diff(repository, other)}
    assert rows[SLOW[2]].change is Change.REMOVED
    assert rows[FAST].change is Change.REMOVED
    assert rows[FAST.replace("fast-0", "fast-1")].change is Change.ADDED, "another place is another worker"
    assert rows[SLOW[0]].change is Change.KEPT
    assert rows["net"].change is Change.KEPT
    assert {row.name: row.change for row in diff(other, repository)}[SLOW[2]] is Change.ADDED
    table = format_table(rows.values())
    assert "removed" in table
    assert table.splitlines()[-1].startswith("2 added, 3 removed, 0 moved, 0 reloaded")
    assert format_table(rows.values(), markdown=True).startswith("| change | model | why |\n|---|---|---|\n")


def test_diff_says_what_a_reload_changes(
    data: dict[str, Any],
    emulated: Deployment,
    profile: Profile,
    plan: Plan,
    repository: Path,
    change_stage: Callable[..., Plan],
    tmp_path: Path,
) -> None:
    generate(emulated, profile, change_stage(1, 0, batch_size=4), tmp_path / "larger")
    rows = {row.name: row for row in diff(repository, tmp_path / "larger")}
    assert rows[WHOLE].change is Change.KEPT, "a place takes the largest batch of any plan"
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["executor"] = "emulated"
    data["models"][0]["postprocess"]["top_k"] = 3
    generate(parse_deployment(data, "test"), profile, plan, tmp_path / "answers")
    rows = {row.name: row for row in diff(repository, tmp_path / "answers")}
    assert rows[WHOLE].change is Change.RELOADED
    assert rows[WHOLE].why.startswith("settings ")


def test_diff_of_plan_files_names_workers(
    plan: Plan, change_stage: Callable[..., Plan], tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(serial.dumps(plan))
    (tmp_path / "b.json").write_text(serial.dumps(change_stage(0, 1, workers=4, batch_size=4)))
    rows = {row.name: row for row in diff(tmp_path / "a.json", tmp_path / "b.json")}
    assert rows["net pipeline 0 stage 1 worker 3"].change is Change.ADDED
    assert rows["net pipeline 0 stage 1 worker 0"].why == "batch 2 -> 4"
    assert rows["net pipeline 1 stage 0 worker 0"].change is Change.KEPT


def test_diff_of_something_else_is_refused(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DiffFault, match="give two plan files or two"):
        diff(tmp_path / "a.json", repository)
    with pytest.raises(DiffFault, match="neither a plan nor"):
        diff(tmp_path / "a.json", tmp_path / "a.json")


def test_generating_a_plan_of_hundreds_of_workers_takes_no_time(
    data: dict[str, Any], profile: Profile, change_stage: Callable[..., Plan], tmp_path: Path
) -> None:
    """The asked figures are 1 s each for a plan of 100 GPUs; in CPU time, to hold on a busy machine."""
    data["cluster"]["groups"] = [
        {"gpu": "fast", "count": 10, "gpus_per_server": 4},
        {"gpu": "slow", "count": 15, "gpus_per_server": 4},
    ]
    deployment = parse_deployment(data, "test")
    big = change_stage(0, 1, workers=120)
    began = time.process_time()
    generate(deployment, profile, big, tmp_path / "repository", export=False)
    generated = time.process_time()
    assert check(deployment, profile, big, tmp_path / "repository", programs=False) == ()
    checked = time.process_time()
    assert generated - began < 2.0
    assert checked - generated < 2.0
