"""Crews: every task runs once, threads come with work and go without. Bells: nobody waits for nothing."""

from __future__ import annotations

import threading
import time

import pytest

from python_backend.wire.threads import Bell, Crew
from tests.waiting import wait_for


def names(start: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(start)]


def test_as_many_threads_as_tasks_at_once_up_to_the_limit() -> None:
    crew = Crew("limited", 3, lambda error: None)
    barrier, done = threading.Barrier(4), []
    for _ in range(3):
        crew.submit(barrier.wait)
    crew.submit(lambda: done.append(len(names("limited"))))
    time.sleep(0.05)
    assert done == [], "the fourth waits for a thread"
    barrier.wait(timeout=5)
    crew.close()
    assert done == [3]
    assert names("limited") == []


def test_threads_without_work_end_and_come_again() -> None:
    crew = Crew("idle", 4, lambda error: None, idle_s=0.02)
    for _ in range(3):
        barrier = threading.Barrier(5)
        for _ in range(4):
            crew.submit(barrier.wait)
        assert len(names("idle")) == 4
        barrier.wait(timeout=5)
        wait_for(lambda: not names("idle"))
    crew.close()


def test_no_task_is_lost_while_threads_come_and_go() -> None:
    crew = Crew("busy", 2, lambda error: None, idle_s=0.001)
    done: list[int] = []
    for number in range(2_000):
        crew.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        if number % 50 == 0:
            time.sleep(0.002)
    wait_for(lambda: len(done) == 2_000)
    crew.close()
    assert sorted(done) == list(range(2_000))


def test_what_a_task_raises_is_told_and_ends_nothing() -> None:
    errors: list[BaseException] = []
    crew = Crew("failing", 1, errors.append)
    done = threading.Event()
    crew.submit(lambda: 1 // 0)
    crew.submit(done.set)
    assert done.wait(5)
    crew.close()
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_short_of_threads_those_that_there_are_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    crew = Crew("short", 4, lambda error: None)
    gate, done = threading.Event(), threading.Event()
    crew.submit(lambda: print(gate.wait(5)))
    monkeypatch.setattr(threading.Thread, "start", fail)
    crew.submit(done.set)
    monkeypatch.undo()
    assert len(names("short")) == 1
    gate.set()
    assert done.wait(5)
    crew.close()


def test_a_bell_never_keeps_its_waiter_longer_than_it_was_told() -> None:
    """Not even when the time is over before the waiting begins."""

    def wait_often() -> None:
        for _ in range(50_000):
            Bell().wait(1e-7)

    waiting = threading.Thread(target=wait_often, daemon=True)
    waiting.start()
    waiting.join(300)
    assert not waiting.is_alive()


def test_a_bell_that_rang_before_is_heard_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    began_s = time.monotonic()
    bell.wait(60.0)
    assert time.monotonic() - began_s < 30
    bell.wait(0.05)
    assert time.monotonic() - began_s >= 0.05
