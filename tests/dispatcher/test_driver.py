"""The driver with a transport in memory: every frame is answered exactly once, whatever hops do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
)
from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec
from planner.streams import StreamPolicy
from python_backend.compiled import IS_COMPILED
from python_backend.dispatcher.driver import Driver, DriverSettings
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.dispatcher.frames.frame_state import FrameState
from python_backend.dispatcher.frames.room import Bounds, Room
from python_backend.scheduler.actions import DropReason
from python_backend.scheduler.core import SchedulerCore
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import Notice
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Awaited, Outputs
from tests.waiting import wait_for

SLO_US = 400_000


def manifest(batch_size: int = 1) -> DeploymentManifest:
    stages = tuple(
        EmulatedStage((2_000, 3_000), (f"server{stage}", f"other{stage}"), (TensorSpec("y", "INT64", (1,)),))
        for stage in range(2)
    )
    model = EmulatedModel(
        name="m",
        slo_us=SLO_US,
        planned_rps=100,
        input=TensorSpec("x", "INT64", (1,)),
        pipelines=(EmulatedPipeline(batch_size, stages),),
    )
    return build_manifest([model], 20_000, "d")


class Hops:
    """A transport that doubles numbers; `before` and `before_begin` may block or raise."""

    def __init__(
        self,
        before: Callable[[WireTicket], None] = lambda wire: None,
        begins: bool = False,
        before_begin: Callable[[WireTicket], None] = lambda wire: None,
    ) -> None:
        self.before = before
        self.before_begin = before_begin
        self.begins = begins
        self.begun: list[int] = []
        """Threads that begun a batch."""
        self.batches: list[tuple[WireTicket, list[int]]] = []

    def begin(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> Awaited | None:
        self.before_begin(wire)
        self.begun.append(threading.get_ident())
        return (lambda: self.infer(wire, tensors, batch, timeout_s)) if self.begins else None

    def infer(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> Outputs:
        numbers = np.frombuffer(b"".join(tensors[0]), np.int64).reshape(batch, 1)
        self.batches.append((wire, numbers.ravel().tolist()))
        self.before(wire)
        return {"y": 2 * numbers}

    def close(self) -> None:
        pass


class Client:
    """Makes frames and records every answer to them."""

    def __init__(self) -> None:
        self.answers: dict[int, list[Any]] = {}
        self._lock = threading.Lock()

    def frame(self, number: int, slo_us: int = SLO_US) -> Frame:
        self.answers[number] = []
        return Frame(
            request_id=number,
            data=np.array([number], np.int64).view(np.uint8).data,
            arrived_us=now_us(),
            deadline_us=now_us() + slo_us,
            send_outputs=lambda outputs: self._record(number, int(outputs["y"][0, 0])),
            send_error=lambda code, text: self._record(number, (code, text)),
        )

    def _record(self, number: int, answer: Any) -> None:
        with self._lock:
            self.answers[number].append(answer)

    def wait(self, timeout_s: float = 60.0) -> None:
        wait_for(
            lambda: all(self.answers.values()),
            timeout_s,
            found=lambda: {number: each for number, each in self.answers.items() if not each},
        )


@contextmanager
def driver_with(
    hops: Hops,
    batch_size: int = 1,
    on_failure: Callable[[HopFailure], None] | None = None,
    logged: list[str] | None = None,
    late: Literal["drop", "serve"] = "drop",
    room: Room | None = None,
    **settings: Any,
) -> Iterator[Driver]:
    def take_out(failure: HopFailure) -> None:
        if failure.kind.blames_worker:
            driver.worker_lost(failure.worker)

    logged = [] if logged is None else logged
    deployment = manifest(batch_size)
    entry = replace(deployment.models[0], late=late)
    driver = Driver(
        manifest=deployment,
        entry=entry,
        core=SchedulerCore(entry.served),
        transport=hops,
        log=logged.append,
        settings=DriverSettings(**settings),
        on_failure=on_failure or take_out,
        room=room,
    )
    threads = threading.active_count()
    try:
        yield driver
    finally:
        driver.close()
    assert threading.active_count() <= threads
    assert not [line for line in logged if "scheduling failed" in line]


def test_each_frame_gets_its_own_answer() -> None:
    client = Client()
    with driver_with(Hops(), batch_size=2) as driver:
        driver.arrive([client.frame(number) for number in range(40)])
        client.wait()
    assert client.answers == {number: [2 * number] for number in range(40)}


def test_frames_that_find_no_room_are_refused_at_once_and_counted() -> None:
    hops, client = Hops(), Client()
    room = Room(Bounds(frames=3, bytes=1 << 20))
    with driver_with(hops, room=room) as driver:
        driver.arrive([client.frame(number) for number in range(10)])
        assert all(client.answers[number] for number in range(3, 10)), (
            "refused by the thread that brought them"
        )
        client.wait()
        assert driver.counts.drops[DropReason.OVERLOAD] == 7
        assert driver.counts.arrived == 10
        assert (room.frames, room.bytes) == (0, 0), "what is answered leaves its room"
        driver.arrive([client.frame(number) for number in range(10, 13)])
        client.wait()
    assert [client.answers[number] for number in (0, 12)] == [[0], [24]]
    ((code, text),) = client.answers[9]
    assert (code, "reason=overload" in text) == (ErrorCode.UNAVAILABLE, True)
    assert (room.frames, room.bytes) == (0, 0)


def test_frames_that_wait_together_are_sent_together() -> None:
    hops, client = Hops(), Client()
    with driver_with(hops, batch_size=2) as driver:
        driver.arrive([client.frame(0), client.frame(1)])
        client.wait()
    assert [numbers for _, numbers in hops.batches] == [[0, 1]]


def test_a_batch_that_can_be_sent_at_once_is_sent_by_the_thread_that_brought_its_frame() -> None:
    client, hops = Client(), Hops(begins=True)
    with driver_with(hops) as driver:
        driver.arrive([client.frame(7)])
        assert hops.begun == [threading.get_ident()]
        client.wait()
    assert client.answers == {7: [14]}
    assert len(hops.batches) == 1


def test_frames_that_a_stuck_thread_keeps_waiting_are_open_though_nobody_counts_them() -> None:
    """What PPipeDispatcherStuck looks at: arrivals are counted by the thread that is stuck."""
    inside, free = threading.Event(), threading.Event()

    def stuck(_: WireTicket) -> None:
        inside.set()
        free.wait(60)

    client, hops = Client(), Hops(begins=True, before_begin=stuck)
    with driver_with(hops) as driver:
        thread = threading.Thread(target=driver.arrive, args=([client.frame(0, 60_000_000)],))
        thread.start()
        assert inside.wait(60)
        driver.arrive([client.frame(number, 60_000_000) for number in (1, 2)])
        assert (driver.counts.arrived, driver.room.frames) == (1, 3)
        assert not any(client.answers.values())
        free.set()
        client.wait()
        thread.join()
    assert driver.room.frames == 0


def test_close_answers_what_is_under_way_and_what_waits() -> None:
    client = Client()
    with driver_with(Hops(before=lambda wire: time.sleep(0.3))) as driver:
        driver.arrive([client.frame(number) for number in range(10)])
        time.sleep(0.05)
    assert {len(answers) for answers in client.answers.values()} == {1}
    late = Client()
    driver.arrive([late.frame(99)])
    assert late.answers[99] == [(ErrorCode.UNAVAILABLE, "the dispatcher is shutting down")]


def test_a_probe_is_answered_in_turn_and_counts_nowhere() -> None:
    client, stuck, go_on = Client(), threading.Event(), threading.Event()

    def never_ends(wire: WireTicket) -> None:
        stuck.set()
        go_on.wait(10)

    with driver_with(Hops(before_begin=never_ends)) as driver:
        driver.probe(client.frame(1))
        client.wait()
        blocked = threading.Thread(target=driver.arrive, args=([client.frame(3)],))
        blocked.start()
        assert stuck.wait(10)
        driver.probe(client.frame(2))
        time.sleep(0.1)
        assert client.answers == {1: [0], 2: [], 3: []}
        go_on.set()
        blocked.join()
        client.wait()
    assert client.answers == {1: [0], 2: [0], 3: [6]}
    assert driver.counts.arrived == 1


def test_what_a_silent_worker_owes_is_done_by_another_before_its_hop_ends() -> None:
    release = threading.Event()
    dead: list[str] = []

    def before(wire: WireTicket) -> None:
        assert wire.ticket is not None
        first = wire.ticket.hops[0].worker
        if not dead:
            dead.append(first)
        if first == dead[0]:
            release.wait(60)

    client = Client()
    with driver_with(Hops(before=before)) as driver:
        driver.arrive([client.frame(1, slo_us=20_000_000)])
        client.wait(50)
        assert driver.counts.in_time == 1
        release.set()
    assert client.answers == {1: [2]}
    assert driver.counts.failures[FailureKind.OVERDUE] == 1


def test_a_hopeless_frame_is_answered_at_once_with_the_reason() -> None:
    client = Client()
    with driver_with(Hops()) as driver:
        driver.arrive([client.frame(1, slo_us=1_000)])
        client.wait()
    ((code, text),) = client.answers[1]
    assert code is ErrorCode.UNAVAILABLE
    assert "deadline" in text
    assert "reason=expired" in text


def test_frames_that_queueing_makes_late_are_told_so() -> None:
    """Also those that were offered to the core a second time, when less than their way was left."""
    client = Client()
    # A long SLO: frames of a slow host that come too late from the start are expired, and rightly so.
    with driver_with(Hops(lambda wire: time.sleep(0.1))) as driver:
        driver.arrive([client.frame(number, slo_us=1_500_000) for number in range(500)])
        client.wait()
    refused = [answers[0][1] for answers in client.answers.values() if isinstance(answers[0], tuple)]
    assert len(refused) > 50
    assert all("reason=overload" in text for text in refused)


def test_a_failed_attempt_is_tried_on_another_worker() -> None:
    def fail_first(wire: WireTicket) -> None:
        assert wire.ticket is not None
        if wire.ticket.hops[0].worker.endswith("w0"):
            raise HopFailure(FailureKind.UNREACHABLE, 0, wire.ticket.hops[0].worker, "gone")

    client = Client()
    hops = Hops(before=fail_first)
    with driver_with(hops) as driver:
        driver.arrive([client.frame(number) for number in range(8)])
        client.wait()
    assert client.answers == {number: [2 * number] for number in range(8)}
    used = [wire.ticket.hops[0].worker for wire, _ in hops.batches if wire.ticket is not None]
    assert used.count("m.p0.s0.w0") <= 2, "after its failure it gets no more"


@pytest.mark.parametrize(
    ("kind", "reason"), [(FailureKind.EXPIRED, "overload"), (FailureKind.NO_MEMORY, "failed")]
)
def test_frames_that_reach_a_stage_too_late_have_met_overload(kind: FailureKind, reason: str) -> None:
    def fail(wire: WireTicket) -> None:
        assert wire.ticket is not None
        time.sleep(max(0, wire.ticket.deadline_us - now_us()) / 1e6)
        raise HopFailure(kind, 0, wire.ticket.hops[0].worker, "it can no longer finish by its deadline")

    client = Client()
    with driver_with(Hops(before=fail)) as driver:
        driver.arrive([client.frame(1)])
        client.wait()
    ((code, text),) = client.answers[1]
    assert code is ErrorCode.UNAVAILABLE
    assert text.endswith(f"reason={reason}")


def test_a_request_that_every_worker_would_refuse_is_not_tried_again() -> None:
    def refuse(wire: WireTicket) -> None:
        raise HopFailure(FailureKind.COMPUTE, 1, "m.p0.s1.w0", "boom")

    client = Client()
    hops = Hops(before=refuse)
    with driver_with(hops) as driver:
        driver.arrive([client.frame(1)])
        client.wait()
    assert len(hops.batches) == 1
    ((code, text),) = client.answers[1]
    assert code is ErrorCode.INTERNAL
    assert "boom" in text


@pytest.mark.parametrize("answer", [{}, {"other": np.zeros((1, 1))}, {"y": np.zeros((0, 1), np.int64)}])
def test_an_answer_without_the_outputs_is_an_error_of_ours(answer: dict[str, Any]) -> None:
    class Empty(Hops):
        def infer(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> Outputs:
            return answer

    client = Client()
    with driver_with(Empty()) as driver:
        driver.arrive([client.frame(1)])
        client.wait()
    ((code, text),) = client.answers[1]
    assert code is ErrorCode.INTERNAL
    assert "y" in text


def test_a_timer_that_fails_takes_no_frame_along() -> None:
    release, held, logged = threading.Event(), list[str](), list[str]()

    def before(wire: WireTicket) -> None:
        assert wire.ticket is not None
        if not held:
            held.append(wire.ticket.hops[0].worker)
            release.wait(10)

    def fail(failure: HopFailure) -> None:
        raise RuntimeError(f"{failure.kind.value} cannot be told")

    client = Client()
    with driver_with(Hops(before=before), on_failure=fail, logged=logged) as driver:
        driver.arrive([client.frame(1, slo_us=10 * SLO_US)])
        wait_for(lambda: logged)
        driver.arrive([client.frame(2)])
        release.set()
        client.wait()
    assert "timers failed: RuntimeError('overdue cannot be told')" in logged
    assert client.answers == {1: [2], 2: [4]}


def test_a_batch_for_which_there_is_no_thread_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = Client()
    with driver_with(Hops()) as driver:
        monkeypatch.setattr(threading.Thread, "start", fail)
        driver.arrive([client.frame(1)])
        client.wait()
        monkeypatch.undo()
        driver.arrive([client.frame(2)])
        client.wait()
        assert driver.in_flight == 0
    ((code, text),) = client.answers[1]
    assert code is ErrorCode.INTERNAL
    assert "thread" in text
    assert client.answers[2] == [4]


def test_an_answer_lost_after_the_last_stage_ended_is_a_failed_attempt_too() -> None:
    def compute_then_die(wire: WireTicket) -> None:
        assert wire.ticket is not None
        if not told:
            told.append(True)
            ticket = wire.ticket
            driver.notice(Notice(1, ticket.batch_id, ticket.attempt, 1, True, now_us(), busy_us=1))
            time.sleep(0.05)
            raise HopFailure(FailureKind.UNREACHABLE, 1, ticket.hops[1].worker, "gone")

    told: list[bool] = []
    client = Client()
    with driver_with(Hops(before=compute_then_die)) as driver:
        driver.arrive([client.frame(1)])
        client.wait()
    assert client.answers[1] == [2]


def test_without_workers_frames_are_refused_and_served_again_when_one_is_back() -> None:
    client = Client()
    with driver_with(Hops()) as driver:
        for worker in ("m.p0.s1.w0", "m.p0.s1.w1"):
            driver.worker_lost(worker)
        driver.arrive([client.frame(1)])
        client.wait()
        driver.worker_back("m.p0.s1.w1")
        driver.arrive([client.frame(2)])
        client.wait()
    assert "reason=no_worker" in client.answers[1][0][1]
    assert client.answers[2] == [4]


def test_late_frames_are_served_where_the_policy_says_so() -> None:
    client = Client()
    with driver_with(Hops(), late="serve") as driver:
        driver.arrive([client.frame(1, slo_us=1_000)])
        client.wait()
    assert client.answers[1] == [2]


def test_a_longer_deadline_than_the_slo_does_not_hold_a_frame_longer() -> None:
    client = Client()
    began_s = time.monotonic()
    with driver_with(Hops(), batch_size=2) as driver:
        driver.arrive([client.frame(1, slo_us=60_000_000)])
        client.wait()
    assert client.answers[1] == [2]
    assert time.monotonic() - began_s < 20


def test_the_wire_ticket_carries_the_latest_true_deadline() -> None:
    client = Client()
    hops = Hops()
    frames = [client.frame(1), client.frame(2, slo_us=SLO_US + 1_000)]
    with driver_with(hops, batch_size=2) as driver:
        driver.arrive(frames)
        client.wait()
    deadlines = {wire.ticket.deadline_us for wire, _ in hops.batches if wire.ticket is not None}
    assert frames[1].deadline_us in deadlines


def test_a_forgotten_frame_answers_with_an_error() -> None:
    client = Client()
    frame = client.frame(5)
    del frame
    assert client.answers[5] == [(ErrorCode.INTERNAL, "the request was lost inside the dispatcher")]


@pytest.mark.parametrize("seed", range(3))
def test_chaos_leaves_no_frame_unanswered_and_none_answered_twice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lock = threading.Lock()

    def chaos(wire: WireTicket) -> None:
        assert wire.ticket is not None
        with lock:
            dice, kind = rng.random(), list(FailureKind)[rng.integers(len(FailureKind))]
        time.sleep(dice * 0.01)
        if dice < 0.3:
            hop = int(dice * 100) % 2
            raise HopFailure(kind, hop, wire.ticket.hops[hop].worker, "chaos")
        if dice < 0.35:
            raise RuntimeError("chaos outside of all rules")

    client = Client()
    with driver_with(Hops(before=chaos), batch_size=2) as driver:
        for start in range(0, 120, 4):
            driver.arrive([client.frame(number) for number in range(start, start + 4)])
            for worker in workers():
                driver.worker_back(worker)
            time.sleep(0.004)
        client.wait()
    assert {len(answers) for answers in client.answers.values()} == {1}
    served = {number: answer[0] for number, answer in client.answers.items() if isinstance(answer[0], int)}
    assert served == {number: 2 * number for number in served}
    assert served


def workers() -> Sequence[str]:
    return [f"m.p0.s{stage}.w{worker}" for stage in range(2) for worker in range(2)]


def test_a_cancelled_frame_is_dropped_also_while_it_waits_to_be_offered_again() -> None:
    client = Client()
    with driver_with(Hops()) as driver:
        frame = client.frame(1, slo_us=30_000_000)
        driver._frames.add([frame])
        frame.move(FrameState.QUEUED)
        assert driver._offers.again(frame, now_us())  # the core has given it up and knows it no more
        driver.cancel(frame)
        client.wait()
        ((_, said),) = client.answers[1]
        assert "reason=cancelled" in said
        assert driver._frames.find(frame.request_id) is None  # so nobody offers it when its pause is over
    assert client.answers[1] == [(ErrorCode.UNAVAILABLE, said)]


@pytest.mark.skipif(IS_COMPILED, reason="a compiled driver's methods cannot be put off")
def test_an_answer_that_waits_for_an_earlier_one_waits_no_longer_than_that_ones_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the turn that heard of its batch's end was over before it began to wait."""
    release, client = threading.Event(), Client()

    def before(wire: WireTicket) -> None:
        assert wire.ticket is not None
        if wire.ticket.batch_id == 0:
            release.wait(40)

    with driver_with(Hops(before=before), on_failure=lambda failure: None) as driver:
        entry = driver.table.entry
        ordered = replace(entry, served=replace(entry.served, streams=StreamPolicy("stream")))
        driver._frames.serve_by(ordered)
        monkeypatch.setattr(driver._attempts, "look_for_silent", lambda *silent: None)
        serve = driver._frames.serve

        def late(*what: Any) -> None:
            driver._turns.take_turn()
            serve(*what)

        monkeypatch.setattr(driver._frames, "serve", late)
        for number, slo_us in ((0, SLO_US), (1, 50 * SLO_US)):
            frame = client.frame(number, slo_us=slo_us)
            frame.stream, frame.place = "camera", number
            driver.arrive([frame])
        try:
            client.wait(20)
        finally:
            release.set()
        first = client.answers[0][0]
    assert "the answer to a later frame of stream 'camera' waited for it" in first[1]
    assert client.answers[1] == [2]


def test_an_answer_of_another_entry_waits_no_longer_than_an_earlier_frames_time() -> None:
    client = Client()
    with driver_with(Hops()) as driver:
        entry = driver.table.entry
        driver._frames.serve_by(replace(entry, served=replace(entry.served, streams=StreamPolicy("stream"))))
        frames = [client.frame(0), client.frame(1, slo_us=100 * SLO_US)]
        for number, frame in enumerate(frames):
            frame.stream, frame.place = "camera", number
        driver._frames.add(frames)  # both are at other entries, and nothing else is to be looked at
        driver.endings.served_elsewhere(frames[1], {"y": np.array([[7]], np.int64)})
        client.wait()
    assert "the answer to a later frame of stream 'camera' waited for it" in client.answers[0][0][1]
    assert client.answers[1] == [7]
