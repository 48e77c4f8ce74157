"""A stage worker in memory: order, refusals, forwarding, holding, probes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_repo_generator.places import place_of
from planner.owned import Fence
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.stage.worker import MOST_WAITING, StageWorker
from python_backend.wire import ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import Notice
from python_backend.wire.hop_failure import FailureKind, HopFailure, from_wire
from python_backend.wire.kserve import Array
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import NO_WAY, Way, WireTicket
from python_backend.wire.transport import Awaited
from tests.dispatcher.test_driver import manifest

LATENCY_US = 2_000
FAR_US = 10_000_000


class Doubler:
    """An executor that doubles, after a gate opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.ran: list[list[int]] = []

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.entered.set()
        self.gate.wait()
        self.ran.append([int(number) for number in np.asarray(inputs[0]).ravel()])
        if self.ran[-1] == [13]:
            raise RuntimeError("thirteen")
        return [2 * inputs[0]]  # type: ignore[operator]

    def warm_up(self) -> None:
        pass


class Reply:
    def __init__(self) -> None:
        self.answers: list[Any] = []

    def outputs(self, outputs: Mapping[str, Array]) -> None:
        self.answers.append({name: np.asarray(array).ravel().tolist() for name, array in outputs.items()})

    def failure(self, failure: HopFailure) -> None:
        self.answers.append(failure)

    def wait(self) -> Any:
        end_s = time.monotonic() + 30
        while not self.answers:
            assert time.monotonic() < end_s
            time.sleep(0.001)
        assert len(self.answers) == 1
        return self.answers[0]


class NextStage:
    def __init__(self) -> None:
        self.got: list[tuple[WireTicket, list[int], float]] = []
        self.failure: HopFailure | None = None
        self.begins = False

    def begin(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> Awaited | None:
        return (lambda: self.infer(wire, tensors, batch, timeout_s)) if self.begins else None

    def infer(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> dict[str, Array]:
        numbers = np.frombuffer(b"".join(tensors[0]), np.int64).reshape(batch, 1)
        self.got.append((wire, numbers.ravel().tolist(), timeout_s))
        if self.failure is not None:
            raise self.failure
        return {"y": numbers + 1}

    def close(self) -> None:
        pass


class Stage:
    """Worker 0 of one stage of the two-stage deployment of the driver's tests."""

    def __init__(self, stage: int, late: str = "drop", keys: Keys | None = None) -> None:
        place = place_of(manifest(), f"m.p0.s{stage}.w0")
        self.executor = Doubler()
        self.next = NextStage()
        self.notices: list[Notice] = []
        self.told: list[tuple[str, Notice]] = []
        self.worker = StageWorker(
            place=replace(place, serves_late=late == "serve"),
            executor=self.executor,
            transport=self.next,
            keys=keys or Keys.none(),
            notify=self.notify,
            log=print,
        )
        self._stage = stage

    def notify(self, entry: str, notice: Notice) -> None:
        self.told.append((entry, notice))
        self.notices.append(notice)

    def wire(self, batch_id: int = 0, revision: int = 1, way: Way = NO_WAY) -> WireTicket:
        hops = tuple(tensor_hop(f"m.p0.s{stage}.w0", 0, 0, 0, LATENCY_US) for stage in range(2))
        ticket = plain_ticket(batch_id, 0, 0, now_us() + FAR_US, hops)
        return WireTicket("d", revision, hop=self._stage, ticket=ticket, way=way)

    def submit(self, text: str, number: int) -> Any:
        """What comes back for a batch of one number with this ticket."""
        reply = Reply()
        self.worker.submit(text, [np.array([[number]], np.int64)], reply)
        return reply.wait()

    def send(
        self,
        number: int,
        reply: Reply | None = None,
        start_us: int = 0,
        batch_id: int = 0,
        **changes: Any,
    ) -> Reply:
        hops = tuple(
            tensor_hop(f"m.p0.s{stage}.w0", start_us, start_us, start_us, start_us + LATENCY_US)
            for stage in range(2)
        )
        fields = {
            "batch_id": batch_id,
            "attempt": 0,
            "pipeline": 0,
            "deadline_us": now_us() + FAR_US,
            "hops": hops,
        }
        wire = WireTicket("d", 1, hop=self._stage, ticket=plain_ticket(**(fields | changes)))  # type: ignore[arg-type]
        reply = reply or Reply()
        self.worker.submit(ticket_codec.encode(wire, Keys.none()), [np.array([[number]], np.int64)], reply)
        return reply


@contextmanager
def stage(index: int, **options: Any) -> Iterator[Stage]:
    made = Stage(index, **options)
    try:
        yield made
    finally:
        made.executor.gate.set()
        made.worker.close()


def test_a_last_stage_answers_and_tells_when_it_ended() -> None:
    with stage(1) as last:
        before_us = now_us()
        assert last.send(4, batch_id=9).wait() == {"y": [8]}
        (notice,) = last.notices
    assert (notice.batch, notice.stage, notice.ok) == (9, 1, True)
    assert notice.ended_us is not None
    assert before_us + LATENCY_US <= notice.ended_us <= now_us(), "held for the profiled latency"


def test_a_first_stage_forwards_and_answers_with_the_final_outputs() -> None:
    with stage(0) as first:
        assert first.send(4).wait() == {"y": [9]}
        ((wire, numbers, timeout_s),) = first.next.got
    assert numbers == [8]
    assert wire.hop == 1
    assert 0 < timeout_s <= FAR_US / 1e6 + 1


def test_what_can_be_sent_at_once_comes_back_as_well() -> None:
    with stage(0) as first:
        first.next.begins = True
        assert first.send(4).wait() == {"y": [9]}
        first.next.failure = HopFailure(FailureKind.EXPIRED, 1, "m.p0.s1.w0", "late")
        assert first.send(4).wait().kind is FailureKind.EXPIRED


@pytest.fixture
def signed(tmp_path: Path) -> Keys:
    (tmp_path / "keys").write_text("k" * 32)
    return Keys(tmp_path / "keys")


@pytest.mark.parametrize("other_host", [False, True])
def test_a_ticket_that_was_served_is_not_served_again(signed: Keys, other_host: bool) -> None:
    with stage(1, keys=signed) as last:
        text = ticket_codec.encode(
            last.wire(), signed, now_us() if other_host else None, [[np.int64(4).tobytes()]]
        )
        assert last.submit(text, 4) == {"y": [8]}
        again = last.submit(text, 4)
    assert (again.kind, "used before" in again.text) == (FailureKind.REFUSED, True)


def test_a_ticket_of_another_host_is_for_its_own_tensors_alone(signed: Keys) -> None:
    with stage(1, keys=signed) as last:
        text = ticket_codec.encode(last.wire(), signed, now_us(), [[np.int64(4).tobytes()]])
        bare = ticket_codec.encode(last.wire(), signed, now_us())
        assert "not those it was signed for" in last.submit(text, 5).text
        assert "not those it was signed for" in last.submit(bare, 4).text
        assert last.submit(text, 4) == {"y": [8]}, "what somebody else tried with it uses no ticket up"


def test_a_stage_without_a_key_serves_nobody_but_answers_probes() -> None:
    with stage(1, keys=Keys(None)) as last:
        refused = last.submit(ticket_codec.encode(last.wire(), Keys(None)), 4)
        assert last.submit(ticket_codec.ANONYMOUS_PROBE_TEXT, 4) == {"y": [0]}
    assert (refused.kind, "signature" in refused.text) == (FailureKind.REFUSED, True)


def test_a_failure_further_on_keeps_its_name() -> None:
    with stage(0) as first:
        first.next.failure = HopFailure(FailureKind.DEAD_STUB, 1, "m.p0.s1.w0", "gone")
        assert first.send(4).wait() == first.next.failure


def test_a_stage_refuses_what_would_wait_behind_too_many() -> None:
    with stage(1) as last:
        last.executor.gate.clear()
        running = last.send(0)
        while not last.executor.entered.is_set():
            time.sleep(0.001)
        waiting = [last.send(number, batch_id=number) for number in range(1, MOST_WAITING + 1)]
        refused = last.send(0, batch_id=999).wait()
        assert (refused.kind, "wait here already" in refused.text) == (FailureKind.EXPIRED, True)
        assert last.notices[-1].batch == 999
        last.executor.gate.set()
        assert running.wait() == {"y": [0]}
        assert waiting[0].wait() == {"y": [2]}


def test_batches_run_in_reserved_order() -> None:
    with stage(1) as last:
        last.executor.gate.clear()
        replies = [last.send(0)]
        time.sleep(0.02)
        replies += [
            last.send(number, start_us=start_us) for number, start_us in ((3, 300), (1, 100), (2, 200))
        ]
        last.executor.gate.set()
        for reply in replies:
            reply.wait()
    assert last.executor.ran == [[0], [1], [2], [3]]


def test_what_can_no_longer_finish_is_refused_unless_late_frames_are_served() -> None:
    with stage(1) as last:
        failure = last.send(1, deadline_us=now_us() + LATENCY_US // 2).wait()
        assert failure.kind is FailureKind.EXPIRED
        assert last.executor.ran == []
        assert [notice.ok for notice in last.notices] == [False]
    with stage(1, late="serve") as last:
        assert last.send(1, deadline_us=now_us() - 1).wait() == {"y": [2]}


def test_an_exception_in_compute_is_said_and_the_worker_goes_on() -> None:
    with stage(1) as last:
        failure = last.send(13).wait()
        assert failure.kind is FailureKind.COMPUTE
        assert "thirteen" in failure.text
        assert last.send(1).wait() == {"y": [2]}


class Unsendable(Reply):
    """As a sender whose server is short of shared memory, or that is closed."""

    def outputs(self, outputs: Mapping[str, Array]) -> None:
        raise RuntimeError("no room for the outputs")

    def failure(self, failure: HopFailure) -> None:
        super().failure(failure)
        raise RuntimeError("no room for the failure")


@pytest.mark.parametrize("late_us", [0, 1])
def test_an_answer_that_cannot_be_sent_ends_no_worker(late_us: int) -> None:
    with stage(1) as last:
        deadline_us = now_us() - 1 if late_us else now_us() + FAR_US
        failure = last.send(1, Unsendable(), deadline_us=deadline_us).wait()
        assert failure.kind is (FailureKind.EXPIRED if late_us else FailureKind.COMPUTE)
        assert last.send(1).wait() == {"y": [2]}
        last.executor.gate.clear()
        replies = [last.send(number, Unsendable()) for number in range(3)]
        threading.Timer(0.05, last.executor.gate.set).start()
        last.worker.close()
        assert len([reply.wait() for reply in replies]) == 3


def test_a_probe_is_answered_while_the_worker_is_busy() -> None:
    with stage(1) as last:
        last.executor.gate.clear()
        busy = last.send(1)
        probe = Reply()
        last.worker.submit('{"probe":true}', [np.zeros((1, 1), np.int64)], probe)
        assert probe.answers == [{"y": [0]}]
        assert busy.answers == []


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([np.zeros((3, 1), np.int64)], "batch of 3; expected 1 to 2"),
        ([np.zeros((1, 2), np.int64)], r"\[1, 2\]; expected INT64 \[1, 1\]"),
        ([np.zeros((1, 1), np.float32)], "float32"),
        ([np.zeros((), np.int64)], "batch of 0"),
        ([], "0 inputs; expected x"),
    ],
)
def test_wrong_tensors_are_refused_with_what_belongs(inputs: list[Array], said: str) -> None:
    with stage(1) as last:
        reply = Reply()
        last.worker.submit('{"probe":true}', inputs, reply)
        (failure,) = reply.answers
    assert failure.kind is FailureKind.REFUSED
    import re

    assert re.search(said.replace("expected x", "expected y"), failure.text), failure.text


def test_a_ticket_for_another_place_is_refused() -> None:
    with stage(0) as first:
        hop = tensor_hop("m.p0.s0.w0", 0, 0, 0, 1)
        alone = "hop 0 of 1 is not for blocks [0, 1) of 2"
        assert alone in first.send(1, hops=(hop,)).wait().text
        other = tensor_hop("m.p0.s0.w1", 0, 0, 0, 1)
        assert "for worker 'm.p0.s0.w1', not 'm.p0.s0.w0'" in first.send(1, hops=(other, hop)).wait().text
        wire = first.wire(way=Way(("elsewhere", "server1"), "entry", 0))
        text = ticket_codec.encode(wire, Keys.none())
        assert "for server 'elsewhere'; this is 'server0'" in first.submit(text, 1).text
        assert first.submit("{", 1).kind is FailureKind.REFUSED
        assert first.worker.refused == 4, "its dispatcher's metrics have it"
        assert first.submit(ticket_codec.encode(first.wire(), Keys.none()), 1) == {"y": [3]}
        assert first.worker.refused == 4


def test_tickets_of_any_revision_are_served_and_their_ends_told_to_the_entry_that_sent_them() -> None:
    with stage(1) as last:
        for revision, entry in ((1, "entry-0"), (7, "entry-1")):
            wire = last.wire(revision, revision, Way((), entry, 0))
            assert last.submit(ticket_codec.encode(wire, Keys.none()), 4) == {"y": [8]}
        assert [(entry, notice.revision) for entry, notice in last.told] == [("entry-0", 1), ("entry-1", 7)]


def test_close_answers_what_waits() -> None:
    last = Stage(1)
    last.executor.gate.clear()
    replies = [last.send(number) for number in range(3)]
    time.sleep(0.02)
    threading.Timer(0.05, last.executor.gate.set).start()
    last.worker.close()
    answers = [reply.wait() for reply in replies]
    assert answers[0] == {"y": [0]}
    assert {answer.kind for answer in answers[1:]} == {FailureKind.UNREACHABLE}
    assert last.send(4).wait().kind is FailureKind.UNREACHABLE


def test_a_replaced_owner_is_told_the_newer_term_and_nothing_of_its_is_run() -> None:
    with stage(0) as first:

        def sent(number: int, shard: str, term: int) -> Any:
            fenced = first.wire(number, way=Way((), "", 0, (Fence(shard, term),) * 2))
            return first.submit(ticket_codec.encode(fenced, Keys.none()), number)

        for term, shard in ((2, "0"), (3, "0"), (1, "1")):
            assert "y" in sent(term, shard, term)
        refused = sent(9, "0", 2)
        assert (refused.kind, refused.seen_term) == (FailureKind.FENCED, 3)
        assert from_wire(refused.to_wire()) == refused
        assert "y" in sent(4, "0", 3)
        assert first.send(5).wait() == {"y": [11]}
        assert [9] not in first.executor.ran
