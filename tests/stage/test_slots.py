"""Memory that batches lie in while they are prepared and computed: used again, and never too early."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from python_backend.stage.pool.slots import Slot, Slots

SHAPE = (2, 3, 5, 3)


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots()
    yield made
    made.close()


def is_open(slot: Slot) -> bool:
    try:
        return os.fstat(slot.descriptor).st_size == slot.size
    except OSError:
        return False


def test_a_slot_is_free_again_when_nobody_has_a_view_of_its_array(slots: Slots) -> None:
    slot = slots.take(100)
    array = slots.lend(slot, SHAPE, 16)
    array[:] = 7
    assert bytes(slot.memory[15:17]) == b"\0\7"
    view = array[1].reshape(-1)[::2]
    del array
    assert slots.take(100) is not slot
    assert int(view.sum()) == 7 * view.size
    del view
    assert slots.take(100) is slot


def test_a_slot_that_is_too_small_is_left_for_others(slots: Slots) -> None:
    small = slots.take(100)
    slots.give_back(small)
    large = slots.take(small.size + 1)
    assert large is not small
    assert large.size > small.size
    assert slots.take(small.size) is small


def test_few_are_kept(slots: Slots) -> None:
    taken = [slots.take(1) for _ in range(12)]
    for slot in taken:
        slots.give_back(slot)
    assert slots.take(1) in taken
    assert sum(is_open(slot) for slot in taken) == 8


def test_what_is_lent_outlives_the_slots(slots: Slots) -> None:
    slot = slots.take(100)
    array = slots.lend(slot, SHAPE, 0)
    slots.close()
    array[:] = 9
    np.testing.assert_array_equal(array, 9)
    assert is_open(slot)
    del array
    assert not is_open(slot)
