"""A first stage that gets clients' frames: prepared ahead, bad ones alone at fault, none forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from model_repo_generator.places import place_of
from planner.manifest import STATUS
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.stage.preparing import Done, Prepared, TaggingPreparer
from python_backend.stage.worker import StageWorker
from python_backend.wire import ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind
from python_backend.wire.kserve import Buffer
from python_backend.wire.ragged import FrameInfo, FrameKind
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import WireTicket
from tests.dispatcher.test_driver import manifest
from tests.stage.test_stage_worker import FAR_US, LATENCY_US, Doubler, NextStage, Reply

KEYS = Keys.none()


class Counting:
    """A preparer whose frames are numbers as text; it prepares when it is told to, or at once."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] | None = None
        self.lost: tuple[FailureKind, str] | None = None
        self.began = 0
        self.closed = False

    def begin(
        self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], done: Done, until_us: int | None = None
    ) -> None:
        self.began += 1
        texts = [bytes(frame).decode() for frame in frames]
        faults = {index: f"{text} is no number" for index, text in enumerate(texts) if not text.isdigit()}
        numbers = [int(text) if text.isdigit() else 0 for text in texts]

        def finish() -> None:
            done(Prepared([np.array(numbers, np.int64).reshape(-1, 1)], faults, self.lost))

        if self.held is None:
            finish()
        else:
            self.held.append(finish)

    def close(self) -> None:
        self.closed = True


class Stage:
    def __init__(self) -> None:
        place = place_of(manifest(), "m.p0.s0.w0")
        self.executor, self.next, self.preparer = Doubler(), NextStage(), Counting()
        self.worker = StageWorker(
            place=place,
            executor=self.executor,  # type: ignore[arg-type]
            transport=self.next,
            keys=KEYS,
            notify=lambda *notice: None,
            log=print,
            preparer=self.preparer,
        )

    def send(
        self, *frames: bytes, batch_id: int = 0, left_us: int = FAR_US, sizes: Sequence[int] = ()
    ) -> Reply:
        infos = [
            FrameInfo(FrameKind.ENCODED, size, 1, 1) for size in sizes or [len(frame) for frame in frames]
        ]
        hops = tuple(tensor_hop(f"m.p0.s{stage}.w0", 0, 0, 0, LATENCY_US) for stage in range(2))
        ticket = plain_ticket(batch_id, 0, 0, now_us() + left_us, hops)
        wire = WireTicket("d", 1, 0, ticket, ingress=tuple(infos))
        reply = Reply()
        self.worker.submit_frames(ticket_codec.encode(wire, KEYS), frames, reply)
        return reply


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.worker.close()
    assert stage.preparer.closed


def test_frames_are_prepared_computed_and_passed_on(stage: Stage) -> None:
    assert stage.send(b"3", b"40").wait() == {"y": [7, 81]}
    ((wire, _, _),) = stage.next.got
    assert [info.size for info in wire.ingress] == [1, 2], "the last stage finishes by them"
    assert not wire.carries_frames


def test_a_bad_frame_goes_on_as_zeros_and_is_told_alone(stage: Stage) -> None:
    answer = stage.send(b"3", b"x").wait()
    assert answer["y"] == [7, 1]
    assert [bytes(text).decode() for text in answer[STATUS]] == ["", "x is no number"]


def test_a_batch_is_prepared_while_the_one_before_is_computed(stage: Stage) -> None:
    stage.executor.gate.clear()
    first, second = stage.send(b"1", batch_id=1), stage.send(b"2", batch_id=2)
    assert stage.preparer.began == 2
    stage.executor.gate.set()
    assert (first.wait(), second.wait()) == ({"y": [3]}, {"y": [5]})
    assert stage.executor.ran == [[1], [2]]


def test_what_is_ready_does_not_wait_for_what_is_not(stage: Stage) -> None:
    stage.preparer.held = []
    slow, quick = stage.send(b"1", batch_id=1), stage.send(b"2", batch_id=2)
    stage.preparer.held[1]()
    assert quick.wait() == {"y": [5]}
    stage.preparer.held[0]()
    assert slow.wait() == {"y": [3]}


def test_what_comes_too_late_is_not_even_prepared(stage: Stage) -> None:
    assert stage.send(b"1", left_us=1).wait().kind is FailureKind.EXPIRED
    assert stage.preparer.began == 0


@pytest.mark.parametrize(
    ("frames", "sizes", "said"),
    [
        ((b"1",), (2,), "a frame of 1 bytes; the ticket says 2"),
        ((b"1", b"2"), (1,), "2 frames; the ticket describes 1"),
        ((b"1",) * 9, (), "batch of 9; expected 1 to 2 frames"),
    ],
)
def test_what_the_ticket_does_not_describe_is_refused(
    stage: Stage, frames: tuple[bytes, ...], sizes: tuple[int, ...], said: str
) -> None:
    failure = stage.send(*frames, sizes=sizes).wait()
    assert (failure.kind, failure.text) == (FailureKind.REFUSED, said)


def test_what_is_being_prepared_at_the_end_is_answered() -> None:
    stage = Stage()
    stage.preparer.held = []
    reply = stage.send(b"1")
    stage.worker.close()
    assert reply.wait().kind is FailureKind.UNREACHABLE
    stage.preparer.held[0]()
    assert len(reply.answers) == 1, "its end comes too late"


def test_what_waits_to_be_prepared_is_bounded(stage: Stage) -> None:
    stage.preparer.held = []
    waiting = [stage.send(b"1", batch_id=number) for number in range(16)]
    failure = stage.send(b"1", batch_id=99).wait()
    assert failure.kind is FailureKind.EXPIRED
    assert failure.text == "16 batches wait here to be prepared already"
    for finish in stage.preparer.held:
        finish()
    assert [reply.wait() for reply in waiting] == [{"y": [3]}] * 16


def test_what_could_not_be_prepared_fails_as_a_batch(stage: Stage) -> None:
    stage.preparer.lost = FailureKind.UNREACHABLE, "no process is left"
    failure = stage.send(b"1", b"2").wait()
    assert (failure.kind, failure.text) == (FailureKind.UNREACHABLE, "no process is left")


def test_a_probe_needs_no_frame(stage: Stage) -> None:
    reply = Reply()
    stage.worker.submit_frames(ticket_codec.ANONYMOUS_PROBE_TEXT, [b""], reply)
    assert reply.wait()["y"] == [0]
    assert stage.preparer.began == 0


def test_emulated_stages_get_tags_of_what_the_client_sent() -> None:
    def tags(*frames: bytes, kind: FrameKind = FrameKind.ENCODED) -> Any:
        found: list[Prepared] = []
        infos = [FrameInfo(kind, len(frame)) for frame in frames]
        TaggingPreparer(Counting()).begin(infos, frames, found.append)
        return found[0].inputs[0].tolist()

    first, second = b"0" * 100 + b"1", b"0" * 100 + b"2"
    assert tags(first)[0] != tags(second)[0], "alike in their first bytes"
    assert tags(first, second) == [*tags(first), *tags(second)]
    assert tags(b"12345678", kind=FrameKind.TENSOR) == [list(b"12345678")]
