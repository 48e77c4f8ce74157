"""Turns: every item once, in order, by one thread at a time; alarms when they are due."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue

import pytest

from python_backend.dispatcher.turns import Turns
from python_backend.wire.clock import NEVER, now_us


class Work:
    """Notes what was taken, by how many at a time, and asks for alarms."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.calls: SimpleQueue[int] = SimpleQueue()
        self.at_once = 0
        self.most_at_once = 0
        self.alarm_us = NEVER
        self.turns: Turns[int] = Turns("work", self.take)
        self.turns.start()

    def take(self, items: Sequence[int]) -> int:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.taken += items
        time.sleep(0)  # lets others try
        self.at_once -= 1
        if not items:
            self.alarm_us = NEVER
            self.calls.put(now_us())
        return self.alarm_us


@pytest.fixture
def work() -> Iterator[Work]:
    """Work whose thread ends with the test."""
    made = Work()
    yield made
    made.turns.close()


def test_an_item_is_done_by_the_thread_that_brings_it(work: Work) -> None:
    """No other thread is woken."""
    work.turns.bring(1)
    assert work.taken == [1]
    assert work.calls.empty()


def test_many_threads_lose_nothing_and_keep_their_order(work: Work) -> None:
    """Each thread's items come in its order, all of them, never two turns at once."""

    def bring(first: int) -> None:
        for index in range(2_000):
            work.turns.bring(first + index)

    threads = [threading.Thread(target=bring, args=(10_000 * each,)) for each in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(work.taken) == len(set(work.taken)) == 12_000
    for each in range(6):
        mine = [item for item in work.taken if item // 10_000 == each]
        assert mine == sorted(mine)
    assert work.most_at_once == 1


def test_what_is_left_is_done_with_the_next_turn(work: Work) -> None:
    """leave() does nothing itself."""
    work.turns.leave(1)
    assert work.taken == []
    work.turns.take_turn()
    assert work.taken == [1]


def test_an_item_brought_during_a_turn_is_done_in_the_next(work: Work) -> None:
    """Also by the very thread whose turn it is."""
    seen: list[Sequence[int]] = []

    def take(items: Sequence[int]) -> int:
        assert turns.mine
        seen.append(tuple(items))
        if items == [1]:
            turns.bring(2)
        return NEVER

    turns: Turns[int] = Turns("nested", take)
    turns.start()
    turns.bring(1)
    assert seen == [(1,), (2,)]
    assert not turns.mine
    turns.close()


def test_an_alarm_comes_when_it_is_due(work: Work) -> None:
    """Not before, and soon after."""
    due_us = work.alarm_us = now_us() + 30_000
    work.turns.bring(1)
    assert 0 <= work.calls.get(timeout=30) - due_us < 30_000_000


def test_an_earlier_alarm_replaces_a_later_one(work: Work) -> None:
    """The thread that sleeps until the later one is woken."""
    work.alarm_us = now_us() + 60_000_000
    work.turns.bring(1)
    time.sleep(0.05)
    due_us = work.alarm_us = now_us() + 20_000
    work.turns.bring(2)
    assert 0 <= work.calls.get(timeout=30) - due_us < 30_000_000


def test_nothing_is_done_after_close() -> None:
    """What came before is."""
    work = Work()
    work.turns.leave(1)
    work.turns.close()
    work.turns.bring(2)
    assert work.taken == [1]
