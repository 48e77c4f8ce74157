"""What is watched is told of at its deadline, once, and not after it was forgotten."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from python_backend.cascade import deadlines
from python_backend.cascade.deadlines import Deadlines
from python_backend.wire.clock import now_us

WAIT_S = 30.0


@dataclass(eq=False)
class Item:
    name: str
    told: threading.Event = field(default_factory=threading.Event)
    looked: threading.Event = field(default_factory=threading.Event)


def test_deadlines_come_in_order_and_forgotten_ones_do_not() -> None:
    order: list[str] = []
    watched: Deadlines[Item]

    def due(item: Item) -> None:
        order.append(item.name)
        watched.forget(item)
        item.told.set()

    watched = Deadlines(due, lambda item: item.looked.set(), lambda text: None)
    early, late, gone, left = Item("early"), Item("late"), Item("gone"), Item("left")
    start_us = now_us()
    watched.add(start_us + 3 * deadlines.LOOK_US, late)
    watched.add(start_us + deadlines.LOOK_US, gone)
    watched.add(start_us + 1_000, early)
    watched.add(start_us + 3_600_000_000, left)
    watched.forget(gone)
    watched.start()
    assert late.told.wait(WAIT_S)
    assert late.looked.wait(WAIT_S)
    assert left.looked.wait(WAIT_S)
    assert order == ["early", "late"]
    assert watched.close() == [left]


def test_an_error_of_one_is_logged_and_others_go_on() -> None:
    said: list[str] = []
    good = Item("good")

    def due(item: Item) -> None:
        if item.name == "bad":
            raise RuntimeError("lost")
        item.told.set()

    watched: Deadlines[Item] = Deadlines(due, lambda item: None, said.append)
    watched.add(now_us(), Item("bad"))
    watched.add(now_us() + 2_000, good)
    watched.start()
    assert good.told.wait(WAIT_S)
    watched.close()
    assert said == ["a frame could not be ended: RuntimeError: lost"]


def test_what_has_ended_is_not_kept_until_its_deadline() -> None:
    """Answered long before it, or told of and then answered: a frame holds its inputs and answers."""
    looked: list[Callable[[], Item | None]] = []
    again = threading.Event()
    watched: Deadlines[Item]

    def look(item: Item) -> None:
        looked.append(weakref.ref(item))
        watched.forget(item)
        again.set()

    watched = Deadlines(lambda item: None, look, lambda text: None)
    due_us = now_us() + 3_600_000_000
    answered = Item("answered")
    kept = weakref.ref(answered)
    watched.add(due_us, answered)
    watched.forget(answered)
    del answered
    assert kept() is None
    watched.start()
    watched.add(due_us, Item("looked at"))
    assert again.wait(WAIT_S)
    end_s = time.monotonic() + WAIT_S
    while looked[0]() is not None and time.monotonic() < end_s:
        time.sleep(0.001)
    assert looked[0]() is None
    assert watched.close() == []
