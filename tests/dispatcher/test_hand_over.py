"""Another table in place, under load: every frame is answered once and rightly, by workers that are free."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.cascades.served import CascadeEntry, ServedMember
from planner.manifest import DeploymentManifest
from planner.private_folder import PrivateFolder
from planner.revision import Ack, HandOver, hand_over, read_acks
from python_backend.compiled import IS_COMPILED
from python_backend.dispatcher.driver import Driver
from python_backend.dispatcher.factory import make_dispatcher
from python_backend.dispatcher.frames.room import Bounds, bounds_of
from python_backend.dispatcher.tables.revisions import Revisions, check_table
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.event_log import read_logs
from python_backend.simulator.replay import replay_as_it_was
from python_backend.wire.feedback import Notice
from python_backend.wire.handed_over import TableRefused, revisions_folder
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.ticket_codec import WireTicket
from tests.dispatcher.test_driver import SLO_US, Client, Hops, driver_with, manifest
from tests.waiting import wait_for

LONG_US = 20 * SLO_US


def only(number: int, revision: int = 2) -> DeploymentManifest:
    """A revision with worker `number` of each pool alone."""
    made = manifest()
    (entry,) = made.models
    pipelines = tuple(
        replace(
            pipeline,
            stages=tuple(replace(stage, workers=(stage.workers[number],)) for stage in pipeline.stages),
        )
        for pipeline in entry.served.pipelines
    )
    served = replace(entry.served, pipelines=pipelines)
    return replace(made, epoch=revision, models=(replace(entry, served=served),))


@contextmanager
def steady(hops: Hops, **settings: Any) -> Iterator[Driver]:
    """A driver whose workers, where this host was too busy to hear of them in time, are back at once."""
    made: list[Driver] = []

    def failed(failure: HopFailure) -> None:
        if failure.kind is FailureKind.OVERDUE:
            made[0].worker_back(failure.worker)
        elif failure.kind.blames_worker:
            made[0].worker_lost(failure.worker)

    with driver_with(hops, on_failure=failed, **settings) as driver:
        made.append(driver)
        yield driver


def hand(driver: Driver, number: int, table: DeploymentManifest, hops: Hops) -> None:
    (entry,) = table.models
    driver.hand_over(number, table, entry, SchedulerCore(entry.served), hops)
    wait_for(lambda: driver.table.number == number)  # another thread may have had its turn at the core


def workers_of(hops: Hops) -> list[list[str]]:
    return [[hop.worker for hop in wire.ticket.hops] for wire, _ in hops.batches if wire.ticket]


def test_batches_under_way_end_by_the_old_table_and_frames_that_wait_go_to_the_new_one() -> None:
    release, client = threading.Event(), Client()
    old, new = Hops(before=lambda wire: release.wait(20) and None), Hops()
    with steady(old) as driver:
        driver.arrive([client.frame(number, slo_us=LONG_US) for number in range(12)])
        wait_for(lambda: len(old.batches) >= 2)
        hand(driver, 1, only(1), new)
        assert (driver.table.number, driver.table.revision) == (1, 2)
        (older,) = driver.older_tables
        sent = len(older.under_way)
        assert sent >= 2
        release.set()
        client.wait(20)
        wait_for(lambda: not driver.older_tables)
        assert len(driver.take_left()) == 1
    assert client.answers == {number: [2 * number] for number in range(12)}
    assert len(old.batches) == sent, "it sends nothing more"
    assert {tuple(workers) for workers in workers_of(new)} == {("m.p0.s0.w1", "m.p0.s1.w1")}
    assert {wire.revision for wire, _ in new.batches} == {2}
    assert {wire.revision for wire, _ in old.batches} == {1}


def test_frames_of_an_old_batch_that_fails_are_served_by_the_new_table() -> None:
    release, client = threading.Event(), Client()

    def fails(wire: WireTicket) -> None:
        release.wait(20)
        assert wire.ticket is not None
        if (worker := wire.ticket.hops[0].worker) == "m.p0.s0.w0":
            raise HopFailure(FailureKind.UNREACHABLE, 0, worker, "gone")

    old, new = Hops(before=fails), Hops()
    with steady(old) as driver:
        driver.arrive([client.frame(number, slo_us=LONG_US) for number in range(2)])
        wait_for(lambda: len(old.batches) >= 2)
        hand(driver, 1, manifest(), new)
        release.set()
        client.wait()
    assert client.answers == {0: [0], 1: [2]}
    assert {workers[0] for workers in workers_of(new)} == {"m.p0.s0.w1"}


def test_workers_that_are_out_stay_out() -> None:
    client, new = Client(), Hops()
    with steady(Hops()) as driver:
        driver.worker_lost("m.p0.s1.w0")
        driver.worker_lost("nobody")
        hand(driver, 1, manifest(), new)
        driver.arrive([client.frame(number, slo_us=LONG_US) for number in range(6)])
        client.wait()
    assert {workers[1] for workers in workers_of(new)} == {"m.p0.s1.w1"}


def test_notices_of_older_batches_end_them() -> None:
    release, client, new = threading.Event(), Client(), Hops()
    old = Hops(before=lambda wire: release.wait(20) and None)
    with steady(old) as driver:
        driver.arrive([client.frame(7, slo_us=LONG_US)])
        wait_for(lambda: len(old.batches) == 1)
        hand(driver, 1, only(0), new)
        ticket = old.batches[0][0].ticket
        assert ticket is not None
        for revision in (1, 9):  # of a revision that nobody serves it counts for nothing
            driver.notice(Notice(revision, ticket.batch_id, 0, 0, True, None, 1_000))
        assert driver.counts.worker_batches == {ticket.hops[0].worker: 1}
        release.set()
        client.wait()
    assert client.answers == {7: [14]}


def test_table_after_table_loses_no_frame_and_answers_none_twice() -> None:
    """Frames come from two threads while tables change and one attempt in nine fails."""
    lock, count = threading.Lock(), iter(range(1 << 30))

    def sometimes(wire: WireTicket) -> None:
        time.sleep(0.001)
        with lock:
            number = next(count)
        if number % 9 == 4:
            assert wire.ticket is not None
            raise HopFailure(FailureKind.EXPIRED, 1, wire.ticket.hops[1].worker, "late")

    client, frames = Client(), 600
    with steady(Hops(before=sometimes)) as driver:

        def send(start: int) -> None:
            for number in range(start, frames, 2):
                driver.arrive([client.frame(number, slo_us=LONG_US)])
                time.sleep(0.001)

        senders = [threading.Thread(target=send, args=(start,)) for start in range(2)]
        for sender in senders:
            sender.start()
        for number in range(1, 30):
            table = (manifest, lambda: only(0, 3), lambda: only(1, 4))[number % 3]()
            hand(driver, number, table, Hops(before=sometimes))
            for left in driver.take_left():
                left.hops.close()
            time.sleep(0.02)
        for sender in senders:
            sender.join()
        client.wait(60)
        wait_for(lambda: not driver.older_tables and driver.in_flight == 0)
        assert (driver.room.frames, driver.queue_length) == (0, 0)
    assert client.answers == {number: [2 * number] for number in range(frames)}


# Through files


def revisions(driver: Driver, folder: Path, taken: list[int], kept: list[set[str]]) -> Revisions:
    def take(table: HandOver, entry: Any) -> None:
        taken.append(table.number)
        driver.hand_over(table.number, table.manifest, entry, SchedulerCore(entry.served), Hops())

    folder.chmod(0o700)
    return Revisions(
        PrivateFolder(folder),
        manifest(),
        driver,
        0,
        lambda: driver.table.entry,
        take,
        lambda: taken.append(-1),
        kept.append,
        print,
    )


def ack_of(folder: Path) -> Ack:
    return read_acks(folder, ["m"])["m"]


def said(seen: Revisions, folder: Path, number: int) -> Ack:
    """What is said once that table is served: the driver may take it in another thread's turn."""

    def is_served() -> bool:
        seen.look()
        return ack_of(folder).number == number

    wait_for(is_served)
    return ack_of(folder)


def test_a_table_in_the_folder_is_taken_and_what_became_of_it_is_said(tmp_path: Path) -> None:
    taken: list[int] = []
    kept: list[set[str]] = []
    release, client = threading.Event(), Client()
    old = Hops(before=lambda wire: release.wait(20) and None)
    with steady(old) as driver:
        seen = revisions(driver, tmp_path, taken, kept)
        seen.look()
        assert (ack_of(tmp_path).number, ack_of(tmp_path).revision) == (0, 1)
        driver.arrive([client.frame(1, slo_us=LONG_US)])
        wait_for(lambda: old.batches)
        hand_over(tmp_path, HandOver(3, only(1)))
        ack = said(seen, tmp_path, 3)
        assert (ack.number, ack.revision) == (3, 2)
        assert (ack.older_batches >= 1, len(ack.older_workers) >= 2) == (True, True)
        assert not ack.is_over(3)
        release.set()
        client.wait()
        wait_for(lambda: not driver.older_tables)
        seen.look()
        assert ack_of(tmp_path).is_over(3)
        hand_over(tmp_path, HandOver(2, only(0)))
        seen.look()
        assert taken == [3], "older numbers are not taken"
    assert [len(names) for names in kept] == [4, 2], "the old table's workers until it is over"


def test_a_table_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    taken: list[int] = []
    with steady(Hops()) as driver:
        seen = revisions(driver, tmp_path, taken, [])
        hand_over(tmp_path, HandOver(5, replace(manifest(), deployment="other")))
        seen.look()
        ack = ack_of(tmp_path)
        assert (ack.number, ack.refused) == (0, 5)
        assert ack.reason == "deployment is 'other'; 'd' is served here"
        (tmp_path / "table.json").write_text("{")
        seen.look()
        assert "not JSON" in ack_of(tmp_path).reason
        hand_over(tmp_path, HandOver(6, only(0)))
        assert said(seen, tmp_path, 6).reason == ""
    assert taken == [6]


def test_what_is_said_of_a_worker_counts_in_the_order_in_which_it_became_true() -> None:
    client, hops = Client(), Hops()
    with steady(hops) as driver:
        for worker in ("m.p0.s0.w0", "m.p0.s1.w1"):
            driver.worker_back(worker, 8)
            driver.worker_lost(worker, 7)  # overtaken on its way
        driver.worker_lost("m.p0.s0.w1", 9)
        driver.worker_lost("m.p0.s1.w0", 10)
        driver.worker_lost("m.p0.s1.w0", 10)  # told once more, for a table that did not know it
        driver.arrive([client.frame(number, slo_us=LONG_US) for number in range(4)])
        client.wait()
    assert {tuple(workers) for workers in workers_of(hops)} == {("m.p0.s0.w0", "m.p0.s1.w1")}


class BrokenCore(SchedulerCore):
    """Raises for frames that wait, or for what the core before has learned."""

    broken = "handle_arrivals"

    def handle(self, event: Any, now_us: int) -> Any:
        if self.broken == "handle":
            raise ArithmeticError("no such table")
        return super().handle(event, now_us)

    def handle_arrivals(self, events: Any, now_us: int) -> Any:
        if self.broken == "handle_arrivals":
            raise ArithmeticError("no such table")
        return super().handle_arrivals(events, now_us)


@pytest.mark.skipif(IS_COMPILED, reason="a compiled core cannot be made to fail")
@pytest.mark.parametrize("broken", ["handle", "handle_arrivals"])
def test_a_core_that_cannot_take_over_leaves_the_one_before_with_its_frames(
    broken: str, tmp_path: Path
) -> None:
    taken: list[int] = []
    kept: list[set[str]] = []
    release, client, logged = threading.Event(), Client(), list[str]()
    hops = Hops(before=lambda wire: release.wait(20) and None)
    with steady(hops, logged=logged) as driver:
        seen = revisions(driver, tmp_path, taken, kept)

        def take(table: HandOver, entry: Any) -> None:
            core = BrokenCore(entry.served)
            core.broken = broken
            driver.hand_over(table.number, table.manifest, entry, core, Hops())

        works, seen._take = seen._take, take
        driver.arrive([client.frame(number, slo_us=LONG_US) for number in range(12)])
        wait_for(lambda: len(hops.batches) >= 2)
        hand_over(tmp_path, HandOver(3, only(1)))
        seen.look()
        wait_for(lambda: driver.failed_table is not None)
        seen.look()
        ack = ack_of(tmp_path)
        assert (ack.number, ack.refused, ack.older_batches) == (0, 3, 0)
        assert ack.reason == "its core cannot take over: ArithmeticError('no such table')"
        assert taken == [-1], "the workers that are served are looked after as before"
        assert kept[-1] == {worker.name for _, worker in driver.table.entry.served.workers()}
        release.set()
        client.wait(20)
        seen._take = works
        hand_over(tmp_path, HandOver(4, only(0)))
        assert said(seen, tmp_path, 4).reason == ""
    assert client.answers == {number: [2 * number] for number in range(12)}


def test_a_folder_stays_the_one_that_was_checked_and_is_looked_at_before_each_table(tmp_path: Path) -> None:
    taken: list[int] = []
    named = tmp_path / "revisions"
    named.mkdir(mode=0o700)
    with steady(Hops()) as driver:
        seen = revisions(driver, named, taken, [])
        named.rename(tmp_path / "away")
        named.mkdir(mode=0o700)
        hand_over(named, HandOver(5, only(0)))
        seen.look()
        assert taken == [], "another folder was put in its place"
        hand_over(tmp_path / "away", HandOver(6, only(0)))
        (tmp_path / "away").chmod(0o777)
        seen.look()
        assert taken == []
        assert "with mode 777; expected a folder of user" in ack_of(tmp_path / "away").reason
        (tmp_path / "away").chmod(0o700)
        hand_over(tmp_path / "away", HandOver(7, only(0)))
        assert said(seen, tmp_path / "away", 7).reason == ""
        seen.close()
    assert taken == [7]


def changed(**served: Any) -> DeploymentManifest:
    made = manifest()
    (entry,) = made.models
    return replace(made, models=(replace(entry, served=replace(entry.served, **served)),))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (replace(manifest(), models=()), "no model 'm'"),
        (changed(pipelines=()), "no pipeline"),
        (changed(slo_us=7), "models.m.slo_us is 7 where 400000 is served"),
        (
            replace(manifest(), models=(replace(manifest().models[0], late="serve"),)),
            "models.m.late is 'serve' where 'drop'",
        ),
    ],
)
def test_what_clients_would_notice_is_refused(table: DeploymentManifest, said: str) -> None:
    with pytest.raises(TableRefused, match=said):
        check_table(HandOver(1, table), "d", manifest().models[0])


def test_a_cascades_member_takes_another_part_of_the_slo() -> None:
    cascade = CascadeEntry("c", 900_000, 1.0, (ServedMember("m", 400_000),), (), 1)
    table = replace(changed(slo_us=300_000), cascades=(cascade,))
    assert check_table(HandOver(1, table), "d", manifest().models[0]).served.slo_us == 300_000


def test_frames_are_offered_by_the_slo_of_the_table_that_is_served() -> None:
    client, longer = Client(), 40 * SLO_US
    with steady(Hops()) as driver:
        hand(driver, 1, changed(slo_us=longer), Hops())
        wait_for(lambda: driver.table.number == 1)
        driver.arrive([client.frame(1, slo_us=longer)])
        client.wait()
        assert driver._offers._time_us == longer
        assert driver.counts.slo_us == longer
        assert driver._lateness._largest_us == longer // 4
    assert client.answers == {1: [2]}


def test_a_folder_that_others_may_write_in_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PPIPE_REVISIONS", raising=False)
    assert revisions_folder() is None
    monkeypatch.setenv("PPIPE_REVISIONS", str(tmp_path))
    tmp_path.chmod(0o700)
    folder = revisions_folder()
    assert folder is not None
    assert folder.path.resolve() == tmp_path.resolve()
    folder.close()
    tmp_path.chmod(0o777)
    with pytest.raises(TableRefused, match="mode 777; expected a folder of user"):
        revisions_folder()
    monkeypatch.setenv("PPIPE_REVISIONS", str(tmp_path / "nowhere"))
    with pytest.raises(TableRefused, match="is no folder"):
        revisions_folder()


def test_a_log_is_of_one_table_and_another_tables_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each replays to the same bytes: what the new core was told first is in its log."""
    monkeypatch.setenv("PPIPE_EVENT_LOGS", str(tmp_path))
    client = Client()
    with steady(Hops(), record_mb=1.0) as driver:
        for number in range(3):
            driver.arrive([client.frame(2 * number + frame, slo_us=LONG_US) for frame in range(2)])
            hand(driver, number + 1, only(number % 2, number + 2), Hops())
        client.wait()
    logs = []
    for path in sorted(tmp_path.glob("*.events.jsonl"), key=lambda each: int(each.name.split(".")[2])):
        with path.open() as lines:
            for header, body in read_logs(lines, path.name):
                logs.append(replay_as_it_was(header, body))
    assert [log.header.from_start for log in logs] == [True] * 4
    assert [log.difference for log in logs] == [None] * 4
    assert [len(tuple(log.served_model.workers())) for log in logs] == [4, 2, 2, 2]
    starts = [log.header.batch_ids_from for log in logs]
    assert starts == sorted(starts), "batch ids count on"


def test_a_dispatcher_that_starts_serves_by_the_table_that_was_handed_over_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("PPIPE_REVISIONS", str(tmp_path))
    said: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])

    def on_port(made: DeploymentManifest) -> DeploymentManifest:
        return replace(made, models=(replace(made.models[0], feedback_port=port),))

    made = on_port(manifest())

    def started() -> tuple[int, int, int]:
        dispatcher = make_dispatcher(made, made.models[0], {"transport": "null"}, said.append)
        try:
            table = dispatcher.driver.table
            wait_for(lambda: [ack.number for ack in read_acks(tmp_path, ["m"]).values()] == [table.number])
            return table.number, table.revision, len(dispatcher.health.workers())
        finally:
            dispatcher.close()

    assert started() == (0, 1, 4)
    hand_over(tmp_path, HandOver(7, on_port(only(1))))
    assert started() == (7, 2, 2)
    hand_over(tmp_path, HandOver(8, replace(on_port(only(1)), deployment="other")))
    assert started() == (0, 1, 4)
    assert any("m: serves by deployment.json: deployment is 'other'" in line for line in said)
    assert ack_of(tmp_path).refused == 8


def test_an_entry_that_owns_nothing_has_room_for_what_the_whole_model_serves() -> None:
    """Frames that it passes on stay open in it."""
    made = manifest()
    (whole,) = made.models
    nothing = replace(whole, served=replace(whole.served, planned_rps=0.0, pipelines=()))
    expected = bounds_of(whole.served, whole.longest_us, whole.served.slo_us, 1)
    driver = Driver(made, nothing, SchedulerCore(nothing.served), Hops(), print)
    try:
        assert figures(driver.room.bounds) == figures(expected)
        assert expected.crowd_frames > 0
        faster = changed(slo_us=3 * SLO_US)
        (entry,) = faster.models
        part = replace(entry, served=replace(entry.served, planned_rps=0.0, pipelines=()))
        driver.hand_over(1, faster, part, SchedulerCore(part.served), Hops())
        wait_for(lambda: driver.table.number == 1)
        expected = bounds_of(entry.served, entry.longest_us, entry.served.slo_us, 1)
        wait_for(lambda: figures(driver.room.bounds) == figures(expected))
    finally:
        driver.close()


def figures(bounds: Bounds) -> tuple[int, ...]:
    """But for the bytes, which are of this host now."""
    return bounds.frames, bounds.patient_frames, bounds.patient_us, bounds.crowd_frames
