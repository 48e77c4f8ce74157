"""A step that blocks keeps its thread and nothing else: what waits is bounded and goes with its owner."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref

from python_backend.cascade.threads import MakingThreads

WAIT_S = 30.0
AN_HOUR_US = 3_600_000_000


class Owner:
    """Of works."""


def blocked(threads: MakingThreads) -> threading.Event:
    """The one thread is kept until this is set."""
    began, go = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert go.wait(WAIT_S)

    assert threads.put(Owner(), "make a", work)
    assert began.wait(WAIT_S)
    return go


def test_what_waits_is_bounded_and_done_when_a_thread_is_free() -> None:
    threads = MakingThreads(1, 3, AN_HOUR_US, lambda text: None)
    go, order, all_done = blocked(threads), list[int](), threading.Event()

    def work(number: int) -> None:
        order.append(number)
        if len(order) == 3:
            all_done.set()

    taken = [threads.put(Owner(), "b", lambda number=number: work(number)) for number in range(5)]  # type: ignore[misc]
    assert taken == [True] * 3 + [False] * 2
    assert threads.waiting() == 3
    go.set()
    assert all_done.wait(WAIT_S)
    assert order == [0, 1, 2]
    assert threads.waiting() == 0
    threads.close()
    assert not threads.put(Owner(), "b", lambda: None)


def test_an_owner_that_is_over_is_not_kept_and_leaves_room() -> None:
    threads = MakingThreads(1, 2, AN_HOUR_US, lambda text: None)
    go, owner = blocked(threads), Owner()
    gone = weakref.ref(owner)
    for _ in range(2):
        assert threads.put(owner, "b", lambda owner=owner: None)  # type: ignore[misc]
    assert not threads.put(Owner(), "b", lambda: None)
    threads.forget(owner)
    threads.forget(owner)
    del owner
    assert gone() is None
    assert threads.waiting() == 0
    assert threads.put(Owner(), "b", lambda: None)
    go.set()
    threads.close()


def test_a_work_that_runs_for_long_is_told_of_once_and_errors_are_told_of() -> None:
    said: list[str] = []
    threads = MakingThreads(1, 8, 0, said.append)
    go, done = blocked(threads), threading.Event()
    assert threads.put(Owner(), "make b", lambda: bytes("abc"))  # type: ignore[call-overload]
    assert threads.put(Owner(), "make c", done.set)
    go.set()
    assert done.wait(WAIT_S)
    threads.close()
    assert said[0].startswith("make a has run for ")
    assert [text for text in said[1:] if "make a" in text] == []
    assert "make b: TypeError: string argument without an encoding" in said


def test_a_process_ends_though_a_step_blocks() -> None:
    script = """
import threading
from python_backend.cascade.threads import MakingThreads
began = threading.Event()
threads = MakingThreads(1, 8, 1_000_000, print)
def work():
    began.set()
    threading.Event().wait()
threads.put("owner", "make", work)
assert began.wait(30)
threads.close()
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 0
