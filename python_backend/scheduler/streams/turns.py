"""Whose frame is sent next where streams take turns: by what each has spent of its share, then by how long it
waits.

Start-time fair queueing over streams (Goyal, Vin and Cheng 1996): a stream spends its charge, which is one
over its weight, on each frame that is sent, and the stream that has spent least is next. One that begins to
wait starts from what the others have spent by then, so that nobody saves up while it is quiet, but for one
frame.

Rules
- What streams have spent counts in steps of the least charge: among equals the more urgent goes first.
- A queue stands in the heap of its priority while frames wait in it, where its steps and its rank say.
- Only frames that can end in time are picked: the caller says from which deadline on.
"""

from __future__ import annotations

from typing import Final

from python_backend.scheduler.batches import Request, Stream, StreamQueue
from python_backend.scheduler.streams.heap import TurnHeap
from python_backend.scheduler.timelines import NEVER

STEP: Final = 1_000_000
"""The charge of the heaviest streams."""


class TurnTaking:
    """See the module."""

    __slots__ = ("heaps", "most_spent", "next_number", "par", "shares", "waiting")

    def __init__(self, shares: bool) -> None:
        """shares: whether what was spent counts; else streams take turns by how long they wait."""
        self.shares: bool = shares
        self.heaps: dict[int, TurnHeap] = {}
        """By priority."""
        self.par: int = 0
        """What the stream that was served last had spent by then."""
        self.most_spent: int = 0
        self.waiting: int = 0
        self.next_number: int = 0

    def enter(self, request: Request, stream: Stream) -> None:
        """The frame waits from now on."""
        if self.waiting == 0:
            self.par = max(self.par, self.most_spent)
        if not waits(stream):
            stream.spent = max(stream.spent, self.par - stream.charge)
        queue = queue_of(stream, request.priority)
        if self._insert(request, queue) == 0:
            queue.rank_us = request.deadline_us
            self._place(queue, stream)

    def replace(self, older: Request, request: Request, stream: Stream) -> None:
        """The frame takes the place of an older one of its stream, which waits alone."""
        queue = older.queue
        if queue is None or queue.priority != request.priority:
            self.left(older, stream)
            self.enter(request, stream)
            mine = request.queue
            if queue is not None and mine is not None and queue.rank_us < mine.rank_us:
                mine.rank_us = queue.rank_us
                self._place(mine, stream)
            return
        older.queue = None
        request.queue = queue
        queue.frames[0] = request
        if request.deadline_us < queue.rank_us:
            queue.rank_us = request.deadline_us
            self._place(queue, stream)

    def left(self, request: Request, stream: Stream) -> None:
        """The frame waits no longer."""
        queue = request.queue
        if queue is None:
            return
        index = first_from(queue.frames, request.deadline_us, request.sequence)
        del queue.frames[index]
        request.queue = None
        self.waiting -= 1
        self._after(queue, index, stream)

    def pick(self, priority: int, size: int, least_us: int) -> list[Request]:
        """Take up to `size` frames of a priority with deadlines from `least_us` on, in turn; they have spent
        their charge."""
        chosen: list[Request] = []
        heap = self.heaps.get(priority)
        if heap is None:
            return chosen
        aside: list[StreamQueue] = []
        while len(chosen) < size and heap.queues:
            queue = heap.queues[0]
            index = first_from(queue.frames, least_us, -1)
            if index == len(queue.frames):
                heap.remove(queue)
                aside.append(queue)
                continue
            request = queue.frames.pop(index)
            stream = request.stream
            assert stream is not None
            request.queue = None
            self.waiting -= 1
            self.par = max(self.par, stream.spent)
            if request.attempts == 0:  # a failed attempt is not the stream's fault
                stream.spent += stream.charge
                self.most_spent = max(self.most_spent, stream.spent)
                self._spent_changed(stream, queue)
            self._after(queue, index, stream)
            if index > 0 and request.attempts == 0:
                self._place(queue, stream)
            chosen.append(request)
        for queue in aside:
            heap.place(queue)
        return chosen

    def put_back(self, requests: list[Request]) -> None:
        """Picked frames that were not sent after all have their places again."""
        for request in requests:
            stream = request.stream
            if stream is None:
                continue
            queue = queue_of(stream, request.priority)
            rank_us = min(queue.rank_us, request.deadline_us) if not queue.frames else request.deadline_us
            if request.attempts == 0:
                stream.spent -= stream.charge
                self._spent_changed(stream, queue)
            if self._insert(request, queue) == 0:
                queue.rank_us = rank_us
            self._place(queue, stream)

    def first_rank_us(self, priority: int) -> int:
        """The rank of the queue whose turn it is; NEVER where nothing waits."""
        heap = self.heaps.get(priority)
        return heap.queues[0].rank_us if heap is not None and heap.queues else NEVER

    def steps(self, stream: Stream) -> int:
        """What a stream has spent, as it counts."""
        return stream.spent // STEP if self.shares else 0

    def _insert(self, request: Request, queue: StreamQueue) -> int:
        index = first_from(queue.frames, request.deadline_us, request.sequence)
        queue.frames.insert(index, request)
        request.queue = queue
        self.waiting += 1
        return index

    def _after(self, queue: StreamQueue, index: int, stream: Stream) -> None:
        """Frame `index` has gone. An empty queue keeps its rank, for a frame that is put back."""
        if not queue.frames:
            self.heaps[queue.priority].remove(queue)
        elif index == 0:
            queue.rank_us = queue.frames[0].deadline_us
            self._place(queue, stream)

    def _spent_changed(self, stream: Stream, own: StreamQueue) -> None:
        """The stream's other queues have other turns. `own` is the caller's to place."""
        if stream.more_queues is None:
            return
        queues: list[StreamQueue] = [stream, *stream.more_queues]
        for queue in queues:
            if queue is not own and queue.at >= 0:
                self._place(queue, stream)

    def _place(self, queue: StreamQueue, stream: Stream) -> None:
        heap = self.heaps.get(queue.priority)
        if heap is None:
            heap = TurnHeap()
            self.heaps[queue.priority] = heap
        queue.steps = self.steps(stream)
        queue.number = self.next_number
        self.next_number += 1
        heap.place(queue)


def waits(stream: Stream) -> bool:
    """Whether any frame of the stream waits for its turn."""
    if stream.frames:
        return True
    if stream.more_queues is not None:
        for queue in stream.more_queues:
            if queue.frames:
                return True
    return False


def queue_of(stream: Stream, priority: int) -> StreamQueue:
    """A stream's queue of this priority, made when it is new."""
    if stream.priority == priority:
        return stream
    if stream.more_queues is None:
        stream.more_queues = []
    for queue in stream.more_queues:
        if queue.priority == priority:
            return queue
    made = StreamQueue(priority)
    stream.more_queues.append(made)
    return made


def first_from(frames: list[Request], deadline_us: int, sequence: int) -> int:
    """Index of the first of the ordered frames that is not before (deadline, sequence)."""
    low = 0
    high = len(frames)
    while low < high:
        middle = (low + high) // 2
        request = frames[middle]
        if request.deadline_us < deadline_us or (
            request.deadline_us == deadline_us and request.sequence < sequence
        ):
            low = middle + 1
        else:
            high = middle
    return low
