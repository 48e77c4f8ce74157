"""Revisions as files: what a repository is given for another plan, what is kept, and tables in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.helpers.heal.fleet import MEMORY_GIB, HealFleet, make_fleet, weighted
from model_repo_generator.writing.grow import grow
from model_repo_generator.writing.write import WriteFault, check_ours
from planner.manifest import MANIFEST_NAME, Chain
from planner.memory import SERVER_BYTES
from planner.planning import plan
from planner.rollout.check import RolloutFault
from planner.rollout.fleet import Gpu, Situation
from planner.rollout.steps import StepKind, steps_to
from ppipe.cli import run
from ppipe.rollout.deployed import start_of
from ppipe.rollout.preparing import make_ready, prepare
from ppipe.rollout.revisions import chain_names, rooms_of, with_tables

MIX = {"cars": 1.0, "faces": 6.0}


@pytest.fixture
def fleet(tmp_path: Path) -> HealFleet:
    return make_fleet(tmp_path / "work", 30_000)


def test_a_repository_is_given_what_another_plan_needs_and_keeps_what_it_has(fleet: HealFleet) -> None:
    repository = fleet.deployed.repository
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    other = plan(weighted(fleet.problem, MIX), mode="fast")
    target = prepare(fleet.deployed, other, fleet.deployed.kept.next_number(1))
    after = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed <= {"generated.json"}
    for server in target.servers:
        for model in server.models:
            assert (repository / server.repository / model / "config.pbtxt").is_file()
    check_ours(repository)
    assert (target.epoch, fleet.deployed.kept.numbers()) == (2, (2,))
    assert fleet.deployed.kept.plan(2) == replace(other, placement=fleet.deployed.kept.plan(2).placement)  # type: ignore[union-attr]
    assert start_of(fleet.deployed).manifest == fleet.manifest, "nothing was rolled out"


def test_places_needs_and_rooms_are_those_of_plan_and_profile(fleet: HealFleet) -> None:
    revision = fleet.deployed.revision(fleet.manifest)
    assert fleet.plan.placement is not None
    seats = {Gpu(seat.server, seat.gpu_id) for seat in fleet.plan.placement.workers}
    assert {worker.gpu for worker in revision.workers.values()} == seats
    rooms = rooms_of(fleet.deployed.deployment.to_cluster())
    assert set(rooms.values()) == {round(MEMORY_GIB * 2**30)} or min(rooms.values()) >= (
        round(MEMORY_GIB * 2**30) - SERVER_BYTES
    )
    assert all(0 < worker.needs_bytes <= rooms[worker.gpu] for worker in revision.workers.values())
    assert len(set(revision.splits.values())) >= 1


def test_tables_in_between_have_the_programs_of_their_workers(fleet: HealFleet) -> None:
    deployed = fleet.deployed
    target = make_ready(deployed, plan(weighted(fleet.problem, MIX), mode="fast"))
    first, second = deployed.revision(fleet.manifest), deployed.revision(target)
    every = (*first.workers.values(), *second.workers.values())
    tight = {worker.gpu: worker.needs_bytes for worker in every}
    now = Situation(first.tables, frozenset(first.workers), first.workers, tight)
    handed = [step for step in steps_to(second, now) if step.kind is StepKind.HAND_OVER]
    assert handed
    for step in handed:
        assert step.tables is not None
        manifest = with_tables(target, step.tables, fleet.manifest)
        for entry in manifest.models:
            for pipeline, programs in zip(entry.served.pipelines, entry.programs, strict=True):
                for stage, program in zip(pipeline.stages, programs, strict=True):
                    assert program.max_batch_size == len(stage.latency_us)


def test_ensembles_are_in_no_table_of_a_rollout(fleet: HealFleet) -> None:
    entry = fleet.manifest.models[0]
    chained = replace(entry, chains=(Chain("net.chain", 0, "slow-0", ()),))
    manifest = replace(fleet.manifest, models=(chained, *fleet.manifest.models[1:]))
    assert chain_names(manifest, fleet.manifest) == {"net.chain"}
    tables = {each.model: each.served for each in manifest.models}
    assert with_tables(manifest, tables, fleet.manifest) == with_tables(fleet.manifest, tables, manifest)


def test_a_file_that_says_something_else_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    assert grow(tmp_path, {"a/one": "1", "two": b"2"}) == ("a/one", "two")
    assert grow(tmp_path, {"a/one": "1"}) == ()
    with pytest.raises(WriteFault, match="two: is there and differs"):
        grow(tmp_path, {"three": "3", "two": "other"})
    assert not (tmp_path / "three").exists()
    grow(tmp_path, {}, {"two": "other"})
    assert (tmp_path / "two").read_text() == "other"


def test_a_revision_whose_workers_are_gone_says_so(fleet: HealFleet) -> None:
    lost = replace(fleet.deployed, workspace=replace(fleet.deployed.workspace, root=fleet.file.parent / "no"))
    with pytest.raises(RolloutFault, match=r"place.json: not in the repository, so revision 1 cannot be"):
        lost.revision(fleet.manifest)
    with pytest.raises(RolloutFault, match=rf"no {MANIFEST_NAME} there; make a repository"):
        start_of(lost)


def test_commands_on_a_deployment_that_does_not_run_say_so_and_keep_nothing(
    fleet: HealFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fleet.deployed.workspace.root
    for command, said in (
        (["rollout"], "the entry server does not answer at 127.0.0.1:"),
        (["rollout", "--dry-run"], "the entry server does not answer"),
        (["operate", "--seconds", "1"], "the entry server does not answer"),
        (["operate", "--silent-s", "0"], "silent_s: 0 must be above 0"),
        (["operate", "--at-most-every", "-1"], "between_s: -1 must be 0 or more"),
    ):
        assert run([command[0], str(fleet.file), "--work", str(root), *command[1:]]) == 1
        assert said in " ".join(capsys.readouterr().err.split())
    assert fleet.deployed.kept.numbers() == ()
    assert run(["history", str(fleet.file), "--work", str(root)]) == 0
    assert capsys.readouterr().out == "no rollout yet\n"
