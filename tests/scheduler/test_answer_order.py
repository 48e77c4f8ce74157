"""Answers of a stream in the order of its frames: single cases, and any events against a slow list."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.scheduler.streams.answer_order import AnswerOrder, Released
from python_backend.scheduler.timelines import NEVER


def shown(released: Released) -> tuple[list[int], list[int]]:
    return released.answers, released.overtaken


def order_of(*frames: tuple[int, str, int]) -> AnswerOrder:
    order = AnswerOrder()
    for request_id, stream, deadline_us in frames:
        order.came(request_id, stream, deadline_us)
    return order


def test_an_answer_waits_for_its_predecessor_and_for_no_other_stream() -> None:
    order = order_of((1, "a", 100), (2, "a", 110), (3, "b", 110))
    assert shown(order.ready(2, 10)) == ([], [])
    assert order.held == 1
    assert shown(order.ready(3, 10)) == ([3], [])
    assert shown(order.ready(1, 20)) == ([1, 2], [])
    assert (order.held, order.open, order.lines) == (0, {}, {})


def test_it_waits_at_most_until_its_predecessors_deadline() -> None:
    order = order_of((1, "a", 100), (2, "a", 110))
    order.ready(2, 50)
    assert order.next_us == 100
    assert shown(order.expire(99)) == ([], [])
    assert shown(order.expire(100)) == ([2], [1])
    assert shown(order.ready(1, 105)) == ([], []), "its answer came too late for its place"
    assert order.next_us == NEVER


def test_a_late_answer_that_nobody_waits_for_is_an_answer() -> None:
    order = order_of((1, "a", 100), (2, "a", 300))
    assert shown(order.expire(200)) == ([], [])
    assert shown(order.ready(1, 200)) == ([1], [])


def test_a_frame_that_ends_without_an_answer_keeps_nobody_waiting() -> None:
    order = order_of((1, "a", 100), (2, "a", 110), (3, "a", 120))
    order.ready(3, 10)
    assert shown(order.ended(2, 11)) == ([], [])
    assert shown(order.ended(1, 12)) == ([3], [])


def test_what_is_told_twice_or_of_nobody_changes_nothing() -> None:
    order = order_of((1, "a", 100), (2, "a", 110))
    order.ready(2, 10)
    assert shown(order.ready(2, 11)) == ([], [])
    assert shown(order.ready(9, 11)) == ([], [])
    assert shown(order.ended(9, 11)) == ([], [])
    assert shown(order.ready(1, 12)) == ([1, 2], [])


class Slow:
    """The rules, said as plainly as possible: one list, walked from its start after every event."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, str, int]] = []
        self.ready: set[int] = set()

    def look(self, now_us: int) -> tuple[set[int], set[int]]:
        answers: set[int] = set()
        overtaken: set[int] = set()
        for stream in {each[1] for each in self.frames}:
            mine = [each for each in self.frames if each[1] == stream]
            while mine:
                request_id, _, deadline_us = mine[0]
                if request_id in self.ready:
                    answers.add(request_id)
                elif deadline_us <= now_us and any(each[0] in self.ready for each in mine):
                    overtaken.add(request_id)
                else:
                    break
                mine.pop(0)
        self.frames = [each for each in self.frames if each[0] not in answers | overtaken]
        return answers, overtaken


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["came", "came", "ready", "ready", "ended", "wait"]),
        st.integers(0, 12),
        st.integers(0, 40),
    ),
    max_size=60,
)


@given(EVENTS)
@settings(max_examples=300)
def test_any_order_of_events_is_as_the_rules_say(events: list[tuple[str, int, int]]) -> None:
    order, slow = AnswerOrder(), Slow()
    now_us = next_id = 0
    last = {"a": -1, "b": -1}
    stream_of: dict[int, str] = {}
    for kind, which, time_us in events:
        released = [order.expire(now_us)]
        if kind == "came":
            stream_of[next_id] = "ab"[which % 2]
            order.came(next_id, stream_of[next_id], now_us + time_us)
            slow.frames.append((next_id, stream_of[next_id], now_us + time_us))
            next_id += 1
        elif kind == "wait":
            now_us += time_us
            assert order.next_us > now_us - time_us
            released.append(order.expire(now_us))
        elif kind == "ready":
            slow.ready.add(which)
            released.append(order.ready(which, now_us))
        else:
            slow.frames = [each for each in slow.frames if each[0] != which]
            released.append(order.ended(which, now_us))
        answers, overtaken = slow.look(now_us)
        assert {each for one in released for each in one.answers} == answers
        assert {each for one in released for each in one.overtaken} == overtaken
        for request_id in [each for one in released for each in one.answers]:
            assert request_id > last[stream_of[request_id]], "out of order"
            last[stream_of[request_id]] = request_id
        slow.ready = {each for each in slow.ready if each in {frame[0] for frame in slow.frames}}
        assert set(order.open) == {frame[0] for frame in slow.frames}
        assert order.held == len(slow.ready)
