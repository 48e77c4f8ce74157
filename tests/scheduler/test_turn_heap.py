"""The heap of streams' queues, against a sorted list."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from python_backend.scheduler.batches import StreamQueue
from python_backend.scheduler.streams.heap import TurnHeap, before

_KEYS = st.tuples(st.integers(0, 3), st.integers(0, 3))
_MOVES = st.lists(st.tuples(st.integers(0, 9), st.none() | _KEYS), max_size=60)


@given(_MOVES)
def test_the_first_is_the_least_whatever_comes_goes_and_changes(
    moves: list[tuple[int, tuple[int, int] | None]],
) -> None:
    heap, queues = TurnHeap(), [StreamQueue(0) for _ in range(10)]
    here: dict[int, tuple[int, int, int]] = {}
    for number, (which, key) in enumerate(moves):
        queue = queues[which]
        if key is not None:
            queue.steps, queue.rank_us, queue.number = *key, number
            heap.place(queue)
            here[which] = (*key, number)
        elif which in here:
            heap.remove(queue)
            del here[which]
        assert [each.at >= 0 for each in queues] == [index in here for index in range(10)]
        assert all(heap.queues[each.at] is each for each in queues if each.at >= 0)
        assert len(heap.queues) == len(here)
    came = []
    while heap.queues:
        came.append(queues.index(heap.queues[0]))
        heap.remove(heap.queues[0])
    assert came == sorted(here, key=lambda which: here[which])


def test_before_is_an_order_of_steps_then_rank_then_number() -> None:
    queues = []
    for steps, rank_us, number in ((1, 5, 9), (1, 5, 10), (1, 6, 0), (2, 0, 0)):
        queue = StreamQueue(0)
        queue.steps, queue.rank_us, queue.number = steps, rank_us, number
        queues.append(queue)
    assert all(before(one, two) for one, two in itertools.pairwise(queues))
    assert not any(before(two, one) for one, two in itertools.pairwise(queues))
