"""Making the steps of a rollout: recorded before and after each, taken up again after any end, turned back
by a step that fails; one at a time; each written down.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from planner.rollout.fleet import FleetRevision, Loadable, Situation, Tables
from planner.rollout.steps import Step, StepKind, after_step, steps_to
from planner.serial import FormatError
from ppipe.rollout import run
from ppipe.rollout.history import History, HistoryEntry, HistoryFault, ModelFigures, now_text
from ppipe.rollout.lock import RolloutBusy, rollout_lock
from ppipe.rollout.record import RolloutRecord, RolloutStatus, load_record, save_record
from ppipe.rollout.run import StepFailed, roll_out
from ppipe.rollout.text import step_text, steps_table
from tests.fixtures.made_rollouts import made_pair


class Killed(BaseException):
    """Stands for SIGKILL: nothing may handle it."""


class FleetInMemory:
    """A fleet that does what it is told, until it is told to fail or to be killed."""

    def __init__(self, now: Situation, killed_at: int = -1, refuses: str = "") -> None:
        self.now = now
        self.left = killed_at
        self.refuses = refuses

    def situation(self) -> Situation:
        return self.now

    def load(self, workers: Sequence[Loadable]) -> None:
        self._make(StepKind.LOAD, workers)

    def unload(self, workers: Sequence[Loadable]) -> None:
        self._make(StepKind.UNLOAD, workers)

    def hand_over(self, tables: Tables, revision: int) -> None:
        self._count()
        self.now = replace(self.now, tables=tables)

    def _make(self, kind: StepKind, workers: Sequence[Loadable]) -> None:
        """Worker by worker: a kill or a fault may come in between."""
        for worker in workers:
            self._count()
            if kind is StepKind.LOAD and worker.gpu.server == self.refuses:
                raise StepFailed(f"server {worker.gpu.server!r}: {worker.name} does not load")
            known = {**self.now.workers, worker.name: worker}
            step = Step(kind, (worker.name,), 0, {})
            self.now = after_step(replace(self.now, workers=known), step)

    def _count(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


def record(origin: FleetRevision, target: FleetRevision) -> RolloutRecord:
    return RolloutRecord("fleet", origin.number, target.number, "asked", now_text(), ())


@pytest.mark.parametrize("seed", range(6))
def test_a_rollout_that_is_killed_anywhere_goes_on_or_goes_back(seed: int, tmp_path: Path) -> None:
    served, now, wanted = made_pair(seed)
    for killed_at in range(40):
        for goal in (wanted, served):
            fleet = FleetInMemory(now, killed_at)
            try:
                roll_out(served, wanted, fleet, tmp_path, record(served, wanted))
            except Killed:
                stopped = load_record(tmp_path)
                assert stopped is not None
                assert stopped.was_stopped
                fleet.left = -1
                roll_out(served, goal, fleet, tmp_path, record(served, goal))
            else:
                return
            assert (fleet.now.tables, fleet.now.loaded) == (goal.tables, goal.workers.keys())
            ended = load_record(tmp_path)
            assert ended is not None
            assert ended.status is RolloutStatus.DONE


def test_one_that_is_killed_before_servers_begin_with_its_revision_is_taken_up(tmp_path: Path) -> None:
    roomy = (made_pair(seed) for seed in range(20))
    served, now, wanted = next(
        (served, now, wanted)
        for served, now, wanted in roomy
        if wanted.workers.keys() - served.workers.keys()
        and not any(step.breaks for step in steps_to(wanted, now))
    )

    def killed(revision: int) -> None:
        raise Killed

    fleet = FleetInMemory(now)
    with pytest.raises(Killed):
        roll_out(served, wanted, fleet, tmp_path, record(served, wanted), settle=killed)
    stopped = load_record(tmp_path)
    assert stopped is not None
    assert stopped.was_stopped
    settled: list[tuple[int, bool]] = []

    def settle(revision: int) -> None:
        under_way = load_record(tmp_path)
        assert under_way is not None
        settled.append((revision, under_way.was_stopped))

    ended = roll_out(served, wanted, fleet, tmp_path, record(served, wanted), settle=settle)
    assert (ended, ended.status) == (load_record(tmp_path), RolloutStatus.DONE)
    new = next(w for name, w in wanted.workers.items() if name not in served.workers)
    back = FleetInMemory(now, refuses=new.gpu.server)
    with pytest.raises(StepFailed):
        roll_out(served, wanted, back, tmp_path, record(served, wanted), settle=settle)
    turned = load_record(tmp_path)
    assert turned is not None
    assert turned.status is RolloutStatus.TURNED_BACK
    assert settled == [(wanted.number, True), (served.number, True)]


def test_a_server_that_refuses_to_load_leaves_the_old_plan_serving(tmp_path: Path) -> None:
    turned_back = 0
    for seed in range(20):
        served, now, wanted = made_pair(seed)
        new = sorted({w.gpu.server for n, w in wanted.workers.items() if n not in served.workers})
        if not new:
            continue
        fleet = FleetInMemory(now, refuses=new[0])
        tight = any(step.breaks for step in steps_to(wanted, now))
        with pytest.raises(StepFailed, match=f"server '{new[0]}'"):
            roll_out(served, wanted, fleet, tmp_path, record(served, wanted))
        ended = load_record(tmp_path)
        assert ended is not None
        if ended.status is RolloutStatus.TURNED_BACK:
            turned_back += 1
            assert (fleet.now.tables, fleet.now.loaded) == (served.tables, served.workers.keys())
        else:
            # Where the old workers had to go first, they are not taken back by a server that takes none.
            assert tight
            assert ended.status is RolloutStatus.FAILED
            assert "the way back to revision 1 failed" in ended.detail
    assert turned_back


def test_steps_fit_80_columns() -> None:
    _, now, wanted = made_pair(3)
    steps = steps_to(wanted, now)
    console = Console(width=80, file=io.StringIO())
    console.print(steps_table(steps, done=1))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "done" in text
    assert "frames/s meanwhile" in text
    assert all(step_text(step) for step in steps)


# A disk that is full


class FullDisk:
    """From the given write on, records cannot be written."""

    def __init__(self, whole: int) -> None:
        self.left = whole

    def save(self, one: RolloutRecord, folder: Path) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_record(one, folder)


@pytest.mark.parametrize("whole", range(8))
@pytest.mark.parametrize("refuses", ["", "s1"])
def test_a_disk_that_is_full_leaves_one_of_the_two_revisions_whole(
    whole: int, refuses: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is begun that is not written down; what was begun is brought to its end, and taken up later."""
    served, now, wanted = made_pair(3)
    monkeypatch.setattr(run, "save_record", (disk := FullDisk(whole)).save)
    fleet = FleetInMemory(now, refuses=refuses)
    try:
        ended = roll_out(served, wanted, fleet, tmp_path, record(served, wanted))
    except OSError:
        assert whole == 0
        assert fleet.now == now
        return
    except StepFailed as failed:
        said = str(failed)
    else:
        said = ""
        assert ended.status is RolloutStatus.DONE
    assert refuses or said == "" or "cannot be written down: [Errno 28] No space left" in said
    whole_now = (fleet.now.tables, fleet.now.loaded)
    assert whole_now in [(one.tables, one.workers.keys()) for one in (served, wanted)]
    kept = load_record(tmp_path)
    assert kept is not None
    assert kept.was_stopped == (disk.left < 0 and kept.status is RolloutStatus.UNDER_WAY)


@pytest.mark.parametrize(
    "kind", [OSError(errno.ENOSPC, "No space left on device"), FormatError("x.ack.json: no")]
)
def test_a_step_whose_files_cannot_be_written_or_read_turns_the_rollout_back(
    kind: Exception, tmp_path: Path
) -> None:
    served, now, wanted = made_pair(3)

    class NoHandOver(FleetInMemory):
        def hand_over(self, tables: Tables, revision: int) -> None:
            if revision == wanted.number:
                raise kind
            super().hand_over(tables, revision)

    fleet = NoHandOver(now)
    with pytest.raises(StepFailed, match=r"hand over: .*(No space|x.ack.json)"):
        roll_out(served, wanted, fleet, tmp_path, record(served, wanted))
    assert (fleet.now.tables, fleet.now.loaded) == (served.tables, served.workers.keys())
    turned = load_record(tmp_path)
    assert turned is not None
    assert turned.status is RolloutStatus.TURNED_BACK


# One at a time


def test_only_one_holds_the_lock_and_the_other_is_told_whose_it_is(tmp_path: Path) -> None:
    with rollout_lock(tmp_path, "ppipe operate"):
        mine = rf"ppipe operate, process {os.getpid()}, since"
        with pytest.raises(RolloutBusy, match=mine), rollout_lock(tmp_path, "ppipe rollout"):
            pass
        assert stat.S_IMODE((tmp_path / "rollout.lock").stat().st_mode) == 0o600
    with rollout_lock(tmp_path, "ppipe rollout"):
        pass


def test_one_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from ppipe.rollout.lock import rollout_lock\n"
        "with rollout_lock(Path(sys.argv[1]), 'x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -9
    with rollout_lock(tmp_path, "y"):
        pass


# History


def entry(**changes: object) -> HistoryEntry:
    made = HistoryEntry(
        at=now_text(),
        deployment="fleet",
        cause="loss",
        why="lost: a",
        origin=1,
        target=2,
        outcome="done",
        seconds=3.2,
        steps=("load: x",),
        before={"net": ModelFigures(80.0, arrived_rps=100.0, served_rps=80.0)},
        after={"net": ModelFigures(120.0, arrived_rps=100.0, served_rps=100.0)},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_history_is_read_as_it_was_written_line_by_line(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.entries() == ()
    history.require_writable()
    one, two = entry(), entry(target=3, why='zwei Zeilen\nund ein "Zeichen"')
    history.add(one)
    history.add(two)
    assert history.entries() == (one, two)
    lines = history.path.read_text().splitlines()
    assert [json.loads(line)["target"] for line in lines] == [2, 3]


def test_a_history_that_cannot_be_written_is_said_before_anything_is_done(tmp_path: Path) -> None:
    history = History(tmp_path / "missing")
    with pytest.raises(HistoryFault, match=r"history.jsonl: No such file.*nothing was done"):
        history.require_writable()
    with pytest.raises(HistoryFault, match="not recorded"):
        history.add(entry())


@pytest.mark.parametrize("damage", [b'{"at": 3}\n', b'{"at": "2026-11', b"\xff\xfe\x00", b"\n\n[]\n"])
def test_a_line_that_is_no_entry_is_named_and_costs_no_other(tmp_path: Path, damage: bytes) -> None:
    """Cut by a host that lost power, or written by hand; what comes after it is a line of its own."""
    history = History(tmp_path)
    one, two = entry(), entry(target=3)
    history.add(one)
    with history.path.open("ab") as file:
        file.write(damage)
    history.add(two)
    entries, faults = history.read()
    assert entries == (one, two)
    assert len(faults) == 1
    assert faults[0].startswith(f"{history.path}:")


@pytest.mark.parametrize("written", [0, 1, 100])
def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    history, write = History(tmp_path), os.write
    history.add(entry())
    before = history.path.read_bytes()
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:written]))
    with pytest.raises(HistoryFault, match=r"No space left on device; not recorded: .*lost: a"):
        history.add(entry(target=3))
    monkeypatch.setattr(os, "write", write)
    assert history.path.read_bytes() == before
