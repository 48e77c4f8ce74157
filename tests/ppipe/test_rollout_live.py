"""What a rollout waits for on servers that run, with their answers made up, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.helpers.heal.fleet import HealFleet, make_fleet, weighted
from model_repo_generator.kubernetes.container.agent import make_folder
from planner.deployment import load_deployment
from planner.manifest import DeploymentManifest
from planner.planning import plan
from planner.revision import Ack, HandOver, ack_name, hand_over, read_hand_over, run_of, write_ack
from planner.rollout.check import RolloutFault
from planner.rollout.fleet import Loadable
from planner.rollout.steps import Step, StepKind, steps_to
from planner.rollout.tables import restricted
from planner.shards import ModelShards, shard_faults
from ppipe.operate.served import what_is_served
from ppipe.rollout import live, rollout
from ppipe.rollout.deployed import Deployed, start_of
from ppipe.rollout.early import EARLY_NAME
from ppipe.rollout.live import FleetDown, LiveFleet
from ppipe.rollout.lock import LOCK_NAME, OPERATE_LOCK, RolloutBusy
from ppipe.rollout.preparing import make_ready, prepare
from ppipe.rollout.record import RolloutRecord, save_record
from ppipe.rollout.revisions import tables_of, with_tables
from ppipe.rollout.rollout import load_early, require_running, unload_early
from ppipe.rollout.run import StepFailed
from ppipe.serving import server_models
from ppipe.serving.launcher import REVISIONS, make_own
from ppipe.serving.polled_folder import PolledFolder
from ppipe.serving.server_models import HereModels, ServerModels
from ppipe.workspace import Workspace, save


class SlowFleet(LiveFleet):
    """Its servers answer; a worker does when it is asked for the third time, or never."""

    never = ""

    def __enter__(self) -> SlowFleet:
        self.asked: list[str] = []
        self.too_early: list[str] = []
        return self

    def _answers(self, server: str) -> bool:
        return True

    def _has_answered(self, worker: Loadable, log_from: int) -> bool:
        self.asked.append(worker.name)
        if read_hand_over(self._folder) is not None:
            self.too_early.append(worker.name)
        if worker.name == self.never:
            raise StepFailed(f"{worker.name} fails")
        return self.asked.count(worker.name) >= 3

    def _is_served(self, number: int) -> bool:
        return True


class PartFleet(SlowFleet):
    """Of some of its servers there is no answer."""

    silent: frozenset[str] = frozenset()

    def _answers(self, server: str) -> bool:
        return server not in self.silent


@pytest.fixture
def made(tmp_path: Path) -> HealFleet:
    return make_fleet(tmp_path / "work", 30_000)


def servers_of(made: HealFleet) -> dict[str, ServerModels]:
    return {server.name: made.deployed.models_of(server) for server in made.manifest.servers}


def folders_of(made: HealFleet) -> dict[str, PolledFolder]:
    logs, repository = made.deployed.workspace.logs, made.deployed.repository
    return {
        server.name: PolledFolder(logs / "models" / server.name, repository, server.repository)
        for server in made.manifest.servers
    }


def test_workers_that_a_killed_rollout_put_there_are_waited_for_before_they_are_used(made: HealFleet) -> None:
    deployed = made.deployed
    target = prepare(deployed, plan(weighted(made.problem, {"cars": 1.0, "faces": 6.0}), mode="fast"), 2)
    old, new = deployed.revision(made.manifest), deployed.revision(target)
    logs, cluster = deployed.workspace.logs, deployed.deployment.to_cluster()
    (logs / REVISIONS).mkdir(parents=True)
    coming = sorted(new.workers.keys() - old.workers.keys())
    assert coming
    with SlowFleet(
        servers_of(made), deployed.tables, deployed.answers, cluster, (old, made.manifest), (new, target)
    ) as fleet:
        for server, folder in folders_of(made).items():
            every = {**old.workers, **new.workers}.values()
            folder.make([worker.name for worker in every if worker.gpu.server == server])
        steps = steps_to(new, fleet.situation())
        assert (steps[0].kind, sorted(steps[0].workers)) == (StepKind.LOAD, coming), "they do not answer yet"
        assert steps[0].capacity_rps != steps[1].capacity_rps, "what is loading serves nothing"
        fleet.never = coming[0]
        with pytest.raises(StepFailed, match=coming[0]):
            fleet.hand_over(new.tables, new.number)
        assert read_hand_over(fleet._folder) is None
        fleet.never = ""
        fleet.asked.clear()
        fleet.hand_over(new.tables, new.number)
        assert read_hand_over(fleet._folder) is not None
        assert sorted(set(fleet.asked)) == coming, "nobody asks the workers that are in use"
        assert fleet.too_early == []


def test_a_worker_that_is_loading_is_waited_for_and_not_put_there_twice(
    made: HealFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one that no process was begun for, as after a load that failed, is put there anew."""
    monkeypatch.setattr(live, "NOTICE_S", -1.0)
    deployed, both = made.deployed, (made.deployed.revision(made.manifest), made.manifest)
    cluster, folders = deployed.deployment.to_cluster(), folders_of(made)
    first, second = sorted(both[0].workers.values(), key=lambda worker: worker.name)[:2]
    put: list[str] = []
    add = HereModels.add

    def adds(models: HereModels, names: Iterable[str]) -> None:
        put.extend(names)
        add(models, names)

    monkeypatch.setattr(HereModels, "add", adds)
    stubs = {str(folders[first.gpu.server].path / first.name)}
    monkeypatch.setattr(server_models, "stub_folders", lambda: stubs)
    with SlowFleet(servers_of(made), deployed.tables, deployed.answers, cluster, both, both) as fleet:
        for server, folder in folders.items():
            folder.make([worker.name for worker in (first, second) if worker.gpu.server == server])
        fleet.load([first, second])
        assert put == [second.name]
        assert set(fleet.asked) == {first.name, second.name}


def test_a_worker_of_the_old_plan_that_fails_to_answer_does_not_keep_a_rollout_from_going_back(
    made: HealFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "NOTICE_S", -1.0)
    deployed, both = made.deployed, (made.deployed.revision(made.manifest), made.manifest)
    cluster, folders = deployed.deployment.to_cluster(), folders_of(made)
    worker = next(iter(both[0].workers.values()))
    with SlowFleet(servers_of(made), deployed.tables, deployed.answers, cluster, both, both) as fleet:
        folder = folders[worker.gpu.server]
        fleet.never = worker.name
        folder.make([])
        with pytest.raises(StepFailed, match="fails"):
            fleet.load([worker])
        fleet.load([worker])
        assert fleet.asked.count(worker.name) == 2
        fleet.load([worker])
        assert fleet.asked.count(worker.name) == 2, "it is given up, and not waited for again"


def test_nothing_is_unloaded_that_batches_of_an_older_table_may_need(
    made: HealFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout was killed once it had written the table."""
    monkeypatch.setattr(live, "HAND_OVER_GRACE_S", -1_000.0)
    deployed, both = made.deployed, (made.deployed.revision(made.manifest), made.manifest)
    logs, cluster = deployed.workspace.logs, deployed.deployment.to_cluster()
    tables = logs / REVISIONS
    tables.mkdir(parents=True)
    worker = next(iter(both[0].workers.values()))
    hand_over(tables, HandOver(3, made.manifest))
    with SlowFleet(servers_of(made), deployed.tables, deployed.answers, cluster, both, both) as fleet:
        folder = folders_of(made)[worker.gpu.server]
        folder.make([worker.name])
        for number, older, refused in ((2, 0, 0), (3, 1, 0)):
            for entry in made.manifest.models:
                write_ack(tables, Ack(entry.dispatcher, "run", number, 1, "", older, (), refused))
            with pytest.raises(StepFailed, match="still use an older table"):
                fleet.unload([worker])
            assert folder.models() == {worker.name}
        for number, refused in ((3, 0), (2, 3)):
            folder.make([worker.name])
            for entry in made.manifest.models:
                write_ack(tables, Ack(entry.dispatcher, "run", number, 1, "", 0, (), refused))
            fleet.unload([worker])
            assert folder.models() == set()


def test_several_entries_have_a_table_together_and_one_that_is_silent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each dispatcher of each entry answers for itself; shards go with the table."""
    made = make_fleet(tmp_path / "work", 30_000, entries=2)
    deployed = made.deployed
    target = prepare(deployed, plan(weighted(made.problem, {"cars": 1.0, "faces": 6.0}), mode="fast"), 2)
    new = deployed.revision(target)
    both = (deployed.revision(made.manifest), made.manifest)
    tables, cluster = deployed.workspace.logs / REVISIONS, deployed.deployment.to_cluster()
    tables.mkdir(parents=True)
    first, second = (server.name for server in made.manifest.entries)

    def answer(entry: str, number: int, refused: int = 0) -> None:
        for model in made.manifest.models:
            name = ack_name(made.manifest, entry, model.dispatcher)
            write_ack(tables, Ack(name, "run", number, 1, "", refused=refused, reason="no"))

    servers = {server.name: deployed.models_of(server) for server in made.manifest.servers}
    with PartFleet(servers, deployed.tables, deployed.answers, cluster, both, (new, target)) as fleet:
        answer(first, 0)
        with pytest.raises(FleetDown, match=f"nothing there from the dispatchers of cars@{second}, faces@"):
            fleet.require_entry()
        fleet.silent = frozenset({second})
        assert fleet.require_entry() == (second,)
        fleet.silent = frozenset({first, second})
        with pytest.raises(FleetDown, match="the entry server does not answer at"):
            fleet.require_entry()
        fleet.silent = frozenset()
        answer(second, 0)
        assert fleet.require_entry() == ()
        fleet.hand_over(new.tables, new.number)
        handed = read_hand_over(tables)
        assert handed is not None
        assert [model.shards for model in handed.manifest.models] == [one.shards for one in target.models]
        usable = {name for name, worker in new.workers.items() if worker.gpu.server != "fast-0"}
        some = {model: restricted(table, usable) or table for model, table in new.tables.items()}
        fleet.hand_over(some, new.number)
        between = read_hand_over(tables)
        assert between is not None
        for model in between.manifest.models:
            sizes = tuple(tuple(len(s.workers) for s in one.stages) for one in model.served.pipelines)
            whole = tuple(shard for shard in model.shards if any(all(stages) for stages in shard.workers))
            assert shard_faults(ModelShards(model.model, whole, 1, None, 0, 0), sizes) == []
        answer(first, 2)
        assert LiveFleet._is_served(fleet, 2) is False, "the other entry has not answered"
        fleet.silent = frozenset({second})
        assert not LiveFleet._is_served(fleet, 2), "one answer that is late is no silence"
        fleet.silent = frozenset()
        assert not LiveFleet._is_served(fleet, 2)
        assert fleet._missed_s == {}, "it answers again"
        fleet.silent = frozenset({second})
        assert not LiveFleet._is_served(fleet, 2)
        assert fleet.dropped == set()
        fleet._missed_s[second] -= live.SILENT_S
        assert LiveFleet._is_served(fleet, 2)
        assert fleet.dropped == {second}, "history names it"
        fleet.silent = frozenset()
        answer(second, 1, refused=2)
        with pytest.raises(StepFailed, match=f"dispatcher 'cars@{second}' refuses the table: no"):
            LiveFleet._is_served(fleet, 2)


def test_other_entries_are_refused(made: HealFleet) -> None:
    spec = yaml.safe_load(made.file.read_text())
    spec["cluster"]["entries"] = 2
    more = made.file.with_name("more.yaml")
    more.write_text(yaml.safe_dump(spec))
    other = replace(made.deployed, deployment=load_deployment(more))
    problem = other.deployment.to_problem(other.profile)
    with pytest.raises(RolloutFault, match=r"the file has entry-0, entry-1, and entry run"):
        prepare(other, plan(problem, mode="fast"), 2)


def test_what_is_served_is_kept_in_place_of_an_earlier_repositorys_revision_of_that_number(
    made: HealFleet,
) -> None:
    kept = made.deployed.kept
    kept.keep(replace(made.manifest, plan_hash="before"), made.plan)
    kept.keep_served(made.manifest)
    assert (kept.manifest(1), kept.plan(1)) == (made.manifest, None)
    kept.keep(made.manifest, made.plan)
    kept.keep_served(made.manifest)
    assert kept.plan(1) == made.plan


def test_nothing_is_loaded_on_a_server_whose_memory_a_removed_worker_still_holds(
    made: HealFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout was killed once it had removed the folders of workers that had to break first."""
    deployed, both = made.deployed, (made.deployed.revision(made.manifest), made.manifest)
    coming = next(iter(both[0].workers.values()))
    cluster, folders = deployed.deployment.to_cluster(), folders_of(made)
    with SlowFleet(servers_of(made), deployed.tables, deployed.answers, cluster, both, both) as fleet:
        folder = folders[coming.gpu.server]
        folder.make([])
        others = {str(other.path / "old") for other in folders.values() if other is not folder}
        looks: list[set[str]] = []

        def stubs() -> set[str]:
            looks.append(folder.models())
            old = {str(folder.path / "old")} if len(looks) < 4 else set()
            return old | others

        monkeypatch.setattr(server_models, "stub_folders", stubs)
        fleet.load([coming])
        assert looks[:4] == [set()] * 4
        assert folder.models() == {coming.name}
        monkeypatch.setattr(live, "UNLOAD_LIMIT_S", -1.0)
        folder.make([])
        looks.clear()
        with pytest.raises(StepFailed, match="still there: old"):
            fleet.load([coming])
        assert folder.models() == set()


def test_processes_of_a_host_that_does_not_answer_are_not_waited_for(
    made: HealFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said last of them it says for ever."""
    monkeypatch.setattr(live, "UNLOAD_LIMIT_S", -1.0)
    deployed = replace(made.deployed, fleet=tmp_path / "fleet")
    assert deployed.fleet is not None
    make_folder(deployed.fleet)
    revision = deployed.revision(made.manifest)
    both = (revision, made.manifest)
    servers = {server.name: deployed.models_of(server) for server in made.manifest.servers}
    for server in servers:
        names = sorted(worker.name for worker in revision.workers.values() if worker.gpu.server == server)
        told = {"number": 1, "models": names, "processes": names}
        told_in = deployed.fleet / "there" / made.manifest.server(server).group
        told_in.mkdir(exist_ok=True)
        (told_in / f"{server}.json").write_text(json.dumps(told))
    going = list(revision.workers.values())
    lost = going[0].gpu.server
    cluster = deployed.deployment.to_cluster()
    with PartFleet(servers, deployed.tables, deployed.answers, cluster, both, both) as fleet:
        fleet.silent = frozenset({lost})
        fleet.unload([worker for worker in going if worker.gpu.server == lost])
        with pytest.raises(StepFailed, match="still there") as failed:
            fleet.unload(going)
        assert not any(worker.name in str(failed.value) for worker in going if worker.gpu.server == lost)
        assert all(worker.name in str(failed.value) for worker in going if worker.gpu.server != lost)


def test_workers_that_were_loaded_early_are_unloaded_by_whoever_comes_next(
    made: HealFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However loading them or unloading them ends, and whoever did it."""
    deployed = made.deployed
    deployed.workspace.logs.mkdir(parents=True)
    make_own(deployed.tables)
    monkeypatch.setattr(rollout, "LiveFleet", PartFleet)
    ready = make_ready(deployed, plan(weighted(made.problem, {"cars": 1.0, "faces": 6.0}), mode="fast"))
    served, wanted = deployed.revision(made.manifest), deployed.revision(ready)
    folders = folders_of(made)
    for server, folder in folders.items():
        folder.make([worker.name for worker in served.workers.values() if worker.gpu.server == server])

    def there() -> set[str]:
        return {name for folder in folders.values() for name in folder.models()}

    add, remove = HereModels.add, HereModels.remove
    added: list[HereModels] = []

    def add_once(models: HereModels, names: Iterable[str]) -> None:
        if added:
            raise OSError("disk full")
        added.append(models)
        add(models, names)

    def fail(models: HereModels, names: Iterable[str]) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(HereModels, "add", add_once)
    with pytest.raises(StepFailed, match="disk full"):
        load_early(deployed, ready)
    loaded = there() - served.workers.keys()
    assert loaded
    monkeypatch.setattr(HereModels, "remove", fail)
    with pytest.raises(OSError, match="disk full"):
        unload_early(deployed)
    monkeypatch.setattr(HereModels, "add", add)
    monkeypatch.setattr(HereModels, "remove", remove)
    steps = dry_run_steps(deployed, made.manifest)
    assert {name for step in steps if step.kind is StepKind.UNLOAD for name in step.workers} == loaded
    unload_early(deployed)
    assert (there(), deployed.early) == (set(served.workers), None)
    load_early(deployed, ready)
    assert deployed.early is not None
    assert there() == served.workers.keys() | set(deployed.early.workers)
    assert set(deployed.early.workers) <= wanted.workers.keys()
    make_own(deployed.tables)
    assert deployed.early is None, "servers that are started anew have them no more"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"manifest": 3}', b"\xff\xfe", b'{"began_with": ""}'])
def test_a_damaged_note_of_what_was_loaded_early_keeps_no_fleet_from_being_planned_again(
    made: HealFleet, text: bytes
) -> None:
    deployed = made.deployed
    deployed.workspace.logs.mkdir(parents=True)
    make_own(deployed.tables)
    ready = make_ready(deployed, plan(weighted(made.problem, {"cars": 1.0, "faces": 6.0}), mode="fast"))
    (deployed.workspace.root / EARLY_NAME).write_bytes(text)
    assert deployed.early is None
    dry_run_steps(deployed, ready)


def test_one_rollout_at_a_time_on_a_fleet_whatever_working_folder_it_is_of(
    made: HealFleet, tmp_path: Path
) -> None:
    fleet, elsewhere = tmp_path / "fleet", tmp_path / "elsewhere"
    make_folder(fleet)
    elsewhere.mkdir()
    mine = replace(made.deployed, fleet=fleet)
    theirs = replace(mine, workspace=Workspace(elsewhere))
    for name in (LOCK_NAME, OPERATE_LOCK):
        with mine.lock("mine", name):
            with pytest.raises(RolloutBusy, match=r"fleet/.*mine, process"), theirs.lock("theirs", name):
                pass
            with pytest.raises(RolloutBusy, match=r"work/.*mine, process"), made.deployed.lock("here", name):
                pass
        with theirs.lock("theirs", name):
            pass


def dry_run_steps(deployed: Deployed, target: DeploymentManifest) -> tuple[Step, ...]:
    """Without asking the entry, which is not there."""
    start, revision = start_of(deployed), deployed.revision(target)
    with rollout._fleet(deployed, start, (revision, target), (revision, target)) as fleet:
        return steps_to(revision, fleet.situation())


def test_a_stopped_rollout_is_not_of_a_run_of_the_servers_that_began_since(made: HealFleet) -> None:
    """Whatever number the file system gives the new run's folder."""
    deployed = made.deployed
    deployed.workspace.logs.mkdir(parents=True)
    make_own(deployed.tables)
    other = plan(weighted(made.problem, {"cars": 1.0, "faces": 6.0}), mode="fast")
    prepare(deployed, other, 2)
    deployed.kept.keep(made.manifest, made.plan)
    record = RolloutRecord("heal", 1, 2, "asked", "now", ("load",), run_of(deployed.tables))
    save_record(record, deployed.workspace.root)
    assert start_of(deployed).stopped == record
    runs = {run_of(deployed.tables)}
    for _ in range(5):
        make_own(deployed.tables)
        runs.add(run_of(deployed.tables))
        assert start_of(deployed).stopped is None
    assert len(runs) == 6


def test_a_plan_that_was_kept_of_an_earlier_repository_is_not_taken_for_the_one_that_is_served(
    made: HealFleet,
) -> None:
    deployed = made.deployed
    assert what_is_served(deployed).plan == made.plan
    other = plan(weighted(made.problem, {"cars": 1.0, "faces": 6.0}), mode="fast")
    deployed.kept.keep(made.manifest, other)
    assert what_is_served(deployed).plan == made.plan
    save(other, deployed.workspace.plan)
    with pytest.raises(RolloutFault, match="not the plan that is served"):
        what_is_served(deployed)


def test_servers_of_other_hosts_need_a_folder_that_they_share(made: HealFleet) -> None:
    away = [replace(server, host="192.0.2.7") for server in made.manifest.servers]
    save(replace(made.manifest, servers=tuple(away)), made.deployed.repository / "deployment.json")
    with pytest.raises(
        FleetDown, match=r"fast-0 \(192.0.2.7\).*give it with --fleet, here and to ppipe serve"
    ):
        require_running(made.deployed)


def test_a_stopped_rollout_goes_to_a_third_revision_with_workers_of_all_three(made: HealFleet) -> None:
    """What is between the first two is served on while the third is made."""
    deployed = made.deployed
    deployed.workspace.logs.mkdir(parents=True)
    make_own(deployed.tables)
    weights = ({"cars": 1.0, "faces": 6.0}, {"cars": 6.0, "faces": 1.0})
    second, third = (
        prepare(deployed, plan(weighted(made.problem, one), mode="fast"), number)
        for number, one in enumerate(weights, start=2)
    )
    deployed.kept.keep(made.manifest, made.plan)
    save_record(
        RolloutRecord("heal", 1, 2, "asked", "now", ("load",), run_of(deployed.tables)),
        deployed.workspace.root,
    )
    start, wanted = start_of(deployed), deployed.revision(third)
    origin = (deployed.revision(start.manifest), start.manifest)
    only_second = tables_of(second) | {"cars": tables_of(third)["cars"]}
    of_second = {worker.name for _, worker in only_second["faces"].workers()}
    assert of_second - wanted.workers.keys() - origin[0].workers.keys()
    with rollout._fleet(deployed, start, origin, (wanted, third)) as fleet:
        fleet.__class__ = SlowFleet
        fleet.asked, fleet.too_early = [], []
        fleet.hand_over(only_second, wanted.number)
    handed = read_hand_over(deployed.tables)
    assert handed is not None
    assert tables_of(handed.manifest) == only_second


def test_a_cascades_parts_come_with_the_tables(tmp_path: Path) -> None:
    """Of a table in between whose pipelines are of both plans, each model has the longer of its two parts."""
    members = [{"model": "cars"}, {"model": "faces", "of": "cars", "count": 2, "most": 9, "make": "a.b:c"}]
    cascade = {"name": "seen", "slo_ms": 2_000, "models": members}
    fleet = make_fleet(tmp_path / "work", 30_000, cascade=cascade)
    options = replace(fleet.problem.options, slo_margin=0.1)
    other = plan(replace(fleet.problem, options=options), mode="fast")
    old, new = (one.cascades[0].parts[0].slo_us for one in (fleet.plan, other))
    assert old != new
    manifest = make_ready(fleet.deployed, other)
    assert manifest.cascade("seen").first.by_us == new
    assert fleet.manifest.cascade("seen").first.by_us == old
    between = tables_of(manifest) | {"cars": tables_of(fleet.manifest)["cars"]}
    mixed = with_tables(manifest, between, fleet.manifest).cascade("seen")
    assert mixed.first.by_us == old
    assert mixed.member("faces").by_us == min(2_000_000, old + between["faces"].slo_us)
