"""Slots are never shared, come back when their reader has read, and nothing is left in /dev/shm."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.runtime.clock import now_us
from python_backend.runtime.shm_arena import SHM, Arena, ArenaError, Slot, require_room


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena("test", slot_bytes=10_000, slots=3)
    yield arena
    arena.close()
    assert not (SHM / arena.key[1:]).exists()


def test_what_is_written_is_what_a_reader_maps(arena: Arena) -> None:
    slot = arena.take(12)
    assert slot is not None
    numbers = np.arange(3, dtype=np.float32)
    arena.write(slot, [[numbers[:1].view(np.uint8).data, numbers[1:2].tobytes()], [numbers[2:].tobytes()]])
    whole = (SHM / arena.key[1:]).read_bytes()
    assert whole[slot.offset : slot.offset + 12] == numbers.tobytes()
    assert (SHM / arena.key[1:]).stat().st_mode & 0o777 == 0o600


def test_slots_run_out_and_come_back_with_a_new_generation(arena: Arena) -> None:
    slots = [arena.take(10_000) for _ in range(4)]
    assert slots[3] is None
    assert arena.take(20_000) is None
    first = slots[0]
    assert first is not None
    arena.give_back(first)
    again = arena.take(1)
    assert again is not None
    assert (again.index, again.generation) == (first.index, first.generation + 1)


def test_a_slot_whose_reader_timed_out_waits_for_a_sign_of_it(arena: Arena) -> None:
    before_us = now_us()
    slots = [arena.take(1) for _ in range(3)]
    for slot in slots:
        assert slot is not None
        arena.quarantine(slot, "a" if slot is slots[0] else "b")
    arena.answered("a", before_us)
    assert arena.take(1) is None, "that answer was to a request from before"
    time.sleep(0.001)
    arena.answered("a", now_us())
    assert arena.take(1) is not None
    assert arena.take(1) is None
    arena.dead("b")
    assert (arena.quarantined, arena.free) == (0, 2)


def test_too_little_room_says_how_much_is_missing() -> None:
    with pytest.raises(ArenaError, match=r"MiB left and \d+ MiB are needed"):
        require_room(1 << 60)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["take", "give", "late", "answer", "dead"]), st.integers(0, 5))))
def test_no_slot_is_ever_taken_twice(steps: list[tuple[str, int]]) -> None:
    arena = Arena("property", slot_bytes=100, slots=4)
    held: list[Slot] = []
    try:
        for step, number in steps:
            if step == "take":
                slot = arena.take(50)
                if slot is not None:
                    assert slot.index not in [other.index for other in held]
                    held.append(slot)
            elif held and step == "give":
                arena.give_back(held.pop(number % len(held)))
            elif held and step == "late":
                arena.quarantine(held.pop(number % len(held)), f"reader{number % 2}")
            elif step == "answer":
                arena.answered(f"reader{number % 2}", now_us() + 1)
            elif step == "dead":
                arena.dead(f"reader{number % 2}")
            assert len(held) + arena.free + arena.quarantined == 4
    finally:
        arena.close()
