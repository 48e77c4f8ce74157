"""Frames of streams at a cascade: which places are taken, and in which order answers are sent."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.cascade.stream_order import StreamOrder
from python_backend.scheduler.streams.book import IDLE_US
from python_backend.wire.parameters.stream_place import NEXT


def test_places_rise_and_an_idle_stream_begins_again() -> None:
    order = StreamOrder(False, print)
    assert order.came(0, "gate", 7, 100, 0)
    assert not order.came(1, "gate", 7, 100, 1)
    assert not order.came(2, "gate", 3, 100, 1)
    assert order.came(3, "yard", 0, 100, 1), "other streams have places of their own"
    assert order.came(4, "gate", NEXT, 100, 2)
    assert not order.came(5, "gate", 8, 100, 2), "the one without a place came after 7"
    assert order.came(6, "gate", 9, 100, 3)
    assert order.came(7, "gate", 1, 100, 3 + IDLE_US)


def test_streams_that_came_once_are_forgotten() -> None:
    order = StreamOrder(True, print)
    for number in range(1000):
        order.came(number, f"s{number}", NEXT, number + 10, number * 20_000)
        order.ended(number, number * 20_000)
    assert len(order._last) <= IDLE_US / 20_000 + 2


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=30),
    st.integers(0, 10_000),
    st.floats(0, 0.5),
)
@settings(max_examples=100)
def test_answers_of_a_stream_are_sent_in_order_and_each_once(
    streams: list[str], seed: int, refused: float
) -> None:
    draw = random.Random(seed)
    order = StreamOrder(True, print)
    sent: dict[str, list[int]] = defaultdict(list)
    for number, stream in enumerate(streams):
        assert order.came(number, stream, NEXT, 1_000_000, 0)
    numbers = list(range(len(streams)))
    draw.shuffle(numbers)
    gone = set()
    for number in numbers:
        if draw.random() < refused:
            gone.add(number)
            order.ended(number, 0)
        else:
            stream = streams[number]
            order.ready(number, stream, lambda number=number, stream=stream: sent[stream].append(number), 0)
    for stream in set(streams):
        expected = [number for number, of in enumerate(streams) if of == stream and number not in gone]
        assert sent[stream] == expected
    assert order.held == 0


def test_one_stream_waits_for_no_other_and_threads_do_not_change_its_order() -> None:
    order = StreamOrder(True, print)
    frames = 400
    for number in range(frames):
        order.came(number, "one" if number % 2 else "other", NEXT, 10_000_000, 0)
    sent: dict[str, list[int]] = defaultdict(list)

    def answer(numbers: list[int]) -> None:
        for number in numbers:
            stream = "one" if number % 2 else "other"

            def send(number: int = number, stream: str = stream) -> None:
                time.sleep(0)
                sent[stream].append(number)

            order.ready(number, stream, send, 0)

    numbers = list(range(1, frames))  # the first frame of "other" has no answer yet
    random.Random(1).shuffle(numbers)
    threads = [threading.Thread(target=answer, args=(numbers[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sent == {"one": list(range(1, frames, 2))}
    order.ended(0, 0)
    assert sent["other"] == list(range(2, frames, 2))


def test_without_order_answers_go_out_as_they_come() -> None:
    order = StreamOrder(False, print)
    sent: list[int] = []
    for number in range(2):
        order.came(number, "gate", NEXT, 100, 0)
    order.ready(1, "gate", lambda: sent.append(1), 0)
    order.ready(0, "gate", lambda: sent.append(0), 0)
    assert sent == [1, 0]


def test_who_lost_its_end_keeps_nobody_waiting_for_ever() -> None:
    order = StreamOrder(True, print)
    sent: list[int] = []
    order.came(0, "gate", NEXT, 100, 0)
    order.came(1, "gate", NEXT, 200, 0)
    order.ready(1, "gate", lambda: sent.append(1), 50)
    order.came(2, "yard", NEXT, 9_000_000, 5_000_000)
    assert sent == [1]
    order.ready(0, "gate", lambda: sent.append(0), 5_000_000)
    assert sent == [1, 0], "late, and not lost"


def test_an_answer_that_cannot_be_sent_keeps_nobody_waiting() -> None:
    said: list[str] = []
    order = StreamOrder(True, said.append)
    sent: list[int] = []

    def fails() -> None:
        raise RuntimeError("no shared memory")

    sends = [lambda: sent.append(0), fails, fails, lambda: sent.append(3)]
    for number in range(4):
        order.came(number, "gate", NEXT, 10_000, 0)
    for number in (3, 2, 1, 0):
        order.ready(number, "gate", sends[number], 1)
    order.came(4, "gate", NEXT, 10_000, 1)
    order.ready(4, "gate", lambda: sent.append(4), 1)
    assert sent == [0, 3, 4]
    assert (order.held, order._released) == (0, {})
    assert said == ["an answer of a stream was not sent: RuntimeError: no shared memory"] * 2
