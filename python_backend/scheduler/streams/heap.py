"""A heap of queues that knows where each one stands: one whose turn changes is moved; none is there twice.

Rules
- A queue stands at `queues[queue.at]`, or nowhere and `at` is -1.
- None comes before the one above it: fewest steps first, then the earliest rank, then the lowest number.
"""

from __future__ import annotations

from python_backend.scheduler.batches import StreamQueue


class TurnHeap:
    """See the module. Its caller states steps, rank and number of a queue, then has it placed."""

    __slots__ = ("queues",)

    def __init__(self) -> None:
        self.queues: list[StreamQueue] = []

    def place(self, queue: StreamQueue) -> None:
        """Put the queue where it belongs now, whether it was here or not."""
        if queue.at < 0:
            queue.at = len(self.queues)
            self.queues.append(queue)
        if not self._rise(queue):
            self._sink(queue)

    def remove(self, queue: StreamQueue) -> None:
        """Take the queue out. It is here."""
        last = self.queues.pop()
        if last is not queue:
            last.at = queue.at
            self.queues[last.at] = last
            if not self._rise(last):
                self._sink(last)
        queue.at = -1

    def _rise(self, queue: StreamQueue) -> bool:
        """Move it up as far as it comes before others; whether it moved."""
        queues = self.queues
        begun = at = queue.at
        while at > 0:
            above = queues[(at - 1) >> 1]
            if not before(queue, above):
                break
            queues[at] = above
            above.at = at
            at = (at - 1) >> 1
        if at == begun:
            return False
        queues[at] = queue
        queue.at = at
        return True

    def _sink(self, queue: StreamQueue) -> None:
        """Move it down as far as others come before it."""
        queues = self.queues
        size = len(queues)
        begun = at = queue.at
        child = 2 * at + 1
        while child < size:
            below = queues[child]
            if child + 1 < size and before(queues[child + 1], below):
                child += 1
                below = queues[child]
            if not before(below, queue):
                break
            queues[at] = below
            below.at = at
            at = child
            child = 2 * at + 1
        if at != begun:
            queues[at] = queue
            queue.at = at


def before(one: StreamQueue, other: StreamQueue) -> bool:
    """Whether it is the one's turn first."""
    if one.steps != other.steps:
        return one.steps < other.steps
    if one.rank_us != other.rank_us:
        return one.rank_us < other.rank_us
    return one.number < other.number
