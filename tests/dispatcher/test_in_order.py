"""Answers leave in the order of their streams' frames, each once, whichever threads bring them."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from python_backend.dispatcher.frames.answers import Answer
from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.frames.in_order import InOrder
from python_backend.wire.clock import now_us

OUTPUTS = {"scores": np.zeros((1, 2), np.float32)}


class Sent:
    """What was sent, in order, and frames to send."""

    def __init__(self) -> None:
        self.answers: dict[str, list[int]] = {}
        self.errors: list[int] = []
        self._lock = threading.Lock()

    def frame(self, request_id: int, stream: str, deadline_in_us: int = 60_000_000) -> Frame:
        def answer(outputs: object) -> None:
            with self._lock:
                self.answers.setdefault(stream, []).append(request_id)

        return Frame(
            request_id=request_id,
            data=memoryview(b""),
            arrived_us=now_us(),
            deadline_us=now_us() + deadline_in_us,
            send_outputs=answer,
            send_error=lambda code, text: self.errors.append(request_id),
            stream=stream,
            place=request_id,
        )


def claimed(answers: Sequence[Answer], batch_id: int) -> list[Answer]:
    del batch_id
    return [answer for answer in answers if answer[0].claim()]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    yield lines
    assert lines == []


def test_answers_of_many_streams_brought_by_many_threads_leave_in_order(logged: list[str]) -> None:
    sent, in_order = Sent(), InOrder(claimed, logged.append)
    frames = [sent.frame(number, f"s{number % 10}") for number in range(2_000)]
    in_order.came(frames)
    mixed = list(frames)
    random.Random(1).shuffle(mixed)

    def bring(part: Sequence[Frame]) -> None:
        for start in range(0, len(part), 7):
            assert in_order.ready([(frame, OUTPUTS) for frame in part[start : start + 7]], 1) == []

    threads = [threading.Thread(target=bring, args=(mixed[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    in_order.close()
    assert in_order.held == 0
    assert len(sent.answers) == 10
    for stream, ids in sent.answers.items():
        assert ids == [number for number in range(2_000) if f"s{number % 10}" == stream]


def test_frames_of_no_stream_are_the_callers_to_answer(logged: list[str]) -> None:
    sent, in_order = Sent(), InOrder(claimed, logged.append)
    plain, late = sent.frame(1, ""), sent.frame(2, "a")
    in_order.came([plain])
    given: list[Answer] = [(plain, OUTPUTS), (late, OUTPUTS)]
    assert in_order.ready(given, 1) == given, "the second came before the order counted"
    in_order.close()
    assert plain.claim()
    assert late.claim()


def test_an_overtaken_frame_is_told_once_and_its_answer_is_sent_no_more(logged: list[str]) -> None:
    sent, in_order = Sent(), InOrder(claimed, logged.append)
    first, second = sent.frame(1, "a", deadline_in_us=1_000), sent.frame(2, "a")
    in_order.came([first, second])
    in_order.ready([(second, OUTPUTS)], 1)
    assert in_order.due_us <= first.deadline_us
    assert in_order.overtaken(first.deadline_us + 1) == [first]
    assert in_order.overtaken(first.deadline_us + 2) == []
    left = in_order.ready([(first, OUTPUTS)], 2)
    in_order.close()
    assert claimed(left, 2) == []
    assert (sent.answers, first.answered) == ({"a": [2]}, True)


def test_a_frame_that_ends_with_an_error_lets_the_next_go(logged: list[str]) -> None:
    sent, in_order = Sent(), InOrder(claimed, logged.append)
    first, second = sent.frame(1, "a"), sent.frame(2, "a")
    in_order.came([first, second])
    in_order.ready([(second, OUTPUTS)], 1)
    assert (in_order.held, sent.answers) == (1, {})
    assert first.claim()
    in_order.ended([first])
    in_order.close()
    assert sent.answers == {"a": [2]}
