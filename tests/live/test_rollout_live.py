"""A planned change and a loss on real tritonservers with two entries, under load: a rollout that is killed
and taken up again, one back without an entry, which takes the plan when it is back, and a server that is
lost for good, around which the fleet is planned. No frame is lost or wrong.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

import ppipe.commands.history
import ppipe.commands.rollout
from benchmarks.helpers.heal.fleet import HealFleet, make_fleet, weighted
from benchmarks.helpers.heal.load import FleetLoad
from benchmarks.helpers.machines.leaks import own_shm_files
from planner import serial
from planner.manifest import DeploymentManifest
from planner.planning import plan
from planner.revision import ack_name, read_acks, read_hand_over
from planner.rollout.check import RolloutFault
from ppipe.cli import run
from ppipe.operate.looks import Watch
from ppipe.operate.loop import OperateLoop, OperateSettings
from ppipe.operate.planners import Planners
from ppipe.operate.served import what_is_served
from ppipe.operate.server_health import SilenceSettings
from ppipe.rollout.deployed import start_of
from ppipe.rollout.history import HistoryEntry
from ppipe.rollout.live import FleetDown
from ppipe.rollout.preparing import prepare
from ppipe.rollout.record import RolloutStatus, load_record
from ppipe.rollout.rollout import perform
from ppipe.rollout.run import StepFailed
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.live_metrics import read
from ppipe.serving.ports import free_base
from tests.waiting import wait_for

pytestmark = pytest.mark.live
LOAD_S = 600.0
RATES = {"cars": 12.0, "faces": 12.0}


@dataclass(frozen=True)
class Serving:
    """A fleet that is served, and its load."""

    fleet: HealFleet
    served: ServedDeployment

    def command(self, *arguments: str) -> list[str]:
        root = str(self.fleet.deployed.workspace.root)
        return [arguments[0], str(self.fleet.file), "--work", root, *arguments[1:]]

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "ppipe", *self.command(*arguments)])


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    fleet = make_fleet(tmp_path_factory.mktemp("fleet"), free_base(22_000, 60), entries=2)
    workspace = fleet.deployed.workspace
    with ServedDeployment(workspace.repository, workspace.logs, fleet=workspace.root / "shared") as served:
        served.start()
        yield Serving(fleet, served)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What commands print, on a terminal of 80 columns."""
    text = io.StringIO()
    console = Console(file=text, width=80)
    monkeypatch.setattr(ppipe.commands.rollout, "out", console)
    monkeypatch.setattr(ppipe.commands.history, "out", console)
    return text


def places_of(manifest: DeploymentManifest) -> list[tuple[str, str]]:
    """Server and name of each worker."""
    return [(worker.server, worker.name) for entry in manifest.models for _, worker in entry.served.workers()]


def assert_all_answered(load: FleetLoad) -> None:
    score = load.score()
    assert score.frames > 0
    assert (score.unanswered, score.wrong, score.double) == (0, 0, 0)


def revisions_of(manifest: DeploymentManifest, entry: str) -> set[float]:
    """What an entry's dispatchers serve, by their pages; none where one shows none."""
    seen = manifest.seen_from(entry)
    try:
        return {read(seen, model).total("ppipe_revision") for model in seen.models}
    except OSError:
        return set()


def numbers_of(serving: Serving, entry: str) -> set[int]:
    """The hand-overs by which an entry's dispatchers serve, as they say."""
    manifest = serving.fleet.manifest
    names = [ack_name(manifest, entry, model.dispatcher) for model in manifest.models]
    return {ack.number for ack in read_acks(serving.served.revisions, names).values()}


def test_a_planned_change_killed_taken_up_and_taken_back(serving: Serving, shown: io.StringIO) -> None:
    fleet = serving.fleet
    root = fleet.deployed.workspace.root
    other = plan(weighted(fleet.problem, {"cars": 1.0, "faces": 6.0}), mode="fast")
    serial.save(other, root / "other.json")
    files = len(own_shm_files())
    with FleetLoad(fleet.manifest, [(LOAD_S, RATES)], seed=1) as load:
        assert run(serving.command("rollout", "--plan", str(root / "other.json"), "--dry-run")) == 0
        lines = shown.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert any("hand over" in line for line in lines)
        assert start_of(fleet.deployed).manifest.epoch == 1

        rollout = serving.begin("rollout", "--plan", str(root / "other.json"))
        wait_for(lambda: (record := load_record(root)) is not None and bool(record.doing or record.done))
        rollout.kill()
        rollout.wait()
        stopped = start_of(fleet.deployed).stopped
        if stopped is not None:  # it may have been at its end already
            assert stopped.status is RolloutStatus.UNDER_WAY
            assert run(serving.command("rollout")) == 0
        record = load_record(root)
        assert record is not None
        assert record.status is RolloutStatus.DONE
        after = start_of(fleet.deployed)
        assert (after.stopped, after.manifest.plan_hash) == (None, serial.content_hash(other))

        # Back as if from another host: what is asked for goes through the folder that both see. An entry that
        # is down takes the plan when it is back.
        serving.served.hold("entry-1")
        pid = next(status.pid for status in serving.served.statuses if status.name == "entry-1")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert run(serving.command("rollout", "--to", "1", "--fleet", str(root / "shared"))) == 0
        assert start_of(fleet.deployed).manifest.epoch == 1
        assert revisions_of(fleet.manifest, "entry-0") == {1.0}
        serving.served.release("entry-1")
        wait_for(lambda: revisions_of(fleet.manifest, "entry-1") == {1.0})
        table = read_hand_over(serving.served.revisions)
        assert table is not None
        wait_for(lambda: numbers_of(serving, "entry-1") == {table.number})
    said = " ".join(shown.getvalue().split())
    assert "entry entry-1 does not answer: it takes the last plan when it is back" in said
    assert_all_answered(load)
    logs = fleet.deployed.workspace.logs
    kept = [place for place in places_of(fleet.manifest) if place in places_of(after.manifest)]
    assert kept
    for server, name in kept:
        log = (logs / f"{server}.log").read_text()
        assert log.count(f"successfully loaded '{name}'") == 1, "what stays is not loaded anew"
    serving.served.wait_until_serving()
    wait_for(lambda: len(own_shm_files()) == files, 30)  # those that went gave theirs back
    assert run(serving.command("operate", "--advise", "--seconds", "2")) == 0
    assert run(serving.command("history", "--last", "1")) == 0
    assert "to 1," in shown.getvalue()


def test_what_cannot_be_is_refused_and_nothing_changes(serving: Serving, tmp_path: Path) -> None:
    deployed = serving.fleet.deployed
    before = start_of(deployed)
    history = deployed.history.entries()
    with pytest.raises(RolloutFault, match=r"revision 99 is not kept; those that are: 1"):
        deployed.kept.manifest(99)
    split = tuple(replace(model, split="another") for model in deployed.profile.models)
    changed = replace(deployed, profile=replace(deployed.profile, models=split))
    with pytest.raises(RolloutFault, match=r"models.cars: the plan's split is .*generate and serve anew"):
        prepare(changed, serving.fleet.plan, 9)
    # A server that takes nothing: the plan before goes on, with all of its workers.
    plan_b = plan(weighted(serving.fleet.problem, {"cars": 5.0, "faces": 1.0}), mode="fast")
    target = prepare(deployed, plan_b, deployed.kept.next_number(1))
    new = next(
        (server, name)
        for server in target.servers
        for name in server.models
        if name not in {model for each in before.manifest.servers for model in each.models}
    )
    place = deployed.repository / new[0].repository / new[1]
    away = tmp_path / "away"
    place.rename(away)
    with pytest.raises((StepFailed, RolloutFault), match=new[1].replace(".", r"\.")):
        perform(deployed, target, "rollout", "asked")
    away.rename(place)
    assert start_of(deployed).manifest == before.manifest
    assert len(deployed.history.entries()) - len(history) <= 1


def test_with_the_entry_down_nothing_is_touched(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, free_base(22_500, 40))
    with pytest.raises(FleetDown, match="the entry server does not answer"):
        perform(fleet.deployed, fleet.manifest, "rollout", "asked")


def heals(entry: HistoryEntry, victim: str) -> bool:
    """On a busy machine another server may be silent for so long too."""
    return entry.cause == "loss" and victim in entry.why


def test_a_fleet_that_lost_a_server_is_planned_around_it(serving: Serving) -> None:
    fleet, served = serving.fleet, serving.served
    victim = next(server.name for server in fleet.manifest.servers if server.group == "fast")
    done: list[HistoryEntry] = []
    stop = threading.Event()
    settings = OperateSettings(silence=SilenceSettings(silent_s=5.0, healthy_s=600.0))
    start = what_is_served(fleet.deployed)
    with (
        FleetLoad(fleet.manifest, [(LOAD_S, RATES)], seed=2) as load,
        Watch(start.manifest) as watch,
        Planners() as planners,
    ):
        operator = OperateLoop(
            fleet.deployed, start, settings, watch, planners, lambda text: None, rolled_out=done.append
        )
        thread = threading.Thread(target=operator.run, args=(stop,))
        thread.start()
        try:
            pid = next(status.pid for status in served.statuses if status.name == victim)
            assert pid is not None
            served.hold(victim)
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: any(heals(entry, victim) for entry in done) or not thread.is_alive())
        finally:
            stop.set()
            thread.join()
    healed = next(entry for entry in done if heals(entry, victim))
    assert healed.outcome == "done"
    manifest = start_of(fleet.deployed).manifest
    used = {worker.server for entry in manifest.models for _, worker in entry.served.workers()}
    assert victim not in used
    assert all(rate.capacity_rps > 0 for rate in healed.after.values())
    assert_all_answered(load)
