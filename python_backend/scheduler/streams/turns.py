"""Whose frame is sent next where streams take turns: by what each has spent of its share, then by how long it
waits.

Start-time fair queueing over streams (Goyal, Vin and Cheng 1996): a stream spends its charge, which is one
over its weight, on each frame that is sent, and the stream that has spent least is next. One that begins to
wait starts from what the others have spent by then, so that nobody saves up while it is quiet, but for one
frame.

Rules
- What streams have spent counts in steps of the least charge: among equals the more urgent goes first.
- A queue has at most one valid entry in its heap. What only grows, the steps and the rank, is brought up to
  date when the entry comes to the top; what sinks makes a new entry.
- Only frames that can end in time are picked: the caller says from which deadline on.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from python_backend.scheduler.batches import Request, Stream, StreamQueue
from python_backend.scheduler.timelines import NEVER

STEP: Final = 1_000_000
"""The charge of the heaviest streams."""
_SPARE: Final = 64
"""Entries beyond twice the frames that wait before those that are no longer valid are cleared away."""

Entry = tuple[int, int, int, StreamQueue]
"""Steps, rank, number, queue."""


class TurnTaking:
    """See the module."""

    __slots__ = ("heaps", "most_spent", "next_entry", "par", "shares", "waiting")

    def __init__(self, shares: bool) -> None:
        """shares: whether what was spent counts; else streams take turns by how long they wait."""
        self.shares: bool = shares
        self.heaps: dict[int, list[Entry]] = {}
        """By priority."""
        self.par: int = 0
        """What the stream that was served last had spent by then."""
        self.most_spent: int = 0
        self.waiting: int = 0
        self.next_entry: int = 0

    def enter(self, request: Request, stream: Stream) -> None:
        """The frame waits from now on."""
        if self.waiting == 0:
            self.par = max(self.par, self.most_spent)
        if not waits(stream):
            stream.spent = max(stream.spent, self.par - stream.charge)
        queue = queue_of(stream, request.priority)
        if self._insert(request, queue) == 0:
            queue.rank_us = request.deadline_us
            self._push_if_lower(queue)

    def replace(self, older: Request, request: Request, stream: Stream) -> None:
        """The frame takes the place of an older one of its stream, which waits alone."""
        queue = older.queue
        if queue is None or queue.priority != request.priority:
            self.left(older)
            self.enter(request, stream)
            mine = request.queue
            if queue is not None and mine is not None:
                mine.rank_us = min(mine.rank_us, queue.rank_us)
                self._push_if_lower(mine)
            return
        older.queue = None
        request.queue = queue
        queue.frames[0] = request
        queue.rank_us = min(queue.rank_us, request.deadline_us)
        self._push_if_lower(queue)

    def left(self, request: Request) -> None:
        """The frame waits no longer."""
        queue = request.queue
        if queue is None:
            return
        index = first_from(queue.frames, request.deadline_us, request.sequence)
        del queue.frames[index]
        self._after(queue, index)
        request.queue = None
        self.waiting -= 1

    def pick(self, priority: int, size: int, least_us: int) -> list[Request]:
        """Take up to `size` frames of a priority with deadlines from `least_us` on, in turn; they have spent
        their charge."""
        chosen: list[Request] = []
        heap = self.heaps.get(priority)
        if heap is None:
            return chosen
        aside: list[StreamQueue] = []
        while len(chosen) < size and self._settled(heap):
            queue = heappop(heap)[3]
            queue.entry = -1
            index = first_from(queue.frames, least_us, -1)
            if index == len(queue.frames):
                aside.append(queue)
                continue
            request = queue.frames.pop(index)
            self._after(queue, index)
            self.waiting -= 1
            self._spend(request, queue)
            chosen.append(request)
            if queue.frames:
                self._push(queue)
        for queue in aside:
            self._push(queue)
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
            if self._insert(request, queue) == 0:
                queue.rank_us = rank_us
            self._push_if_lower(queue)

    def first_rank_us(self, priority: int) -> int:
        """The rank of the queue whose turn it is; NEVER where nothing waits."""
        heap = self.heaps.get(priority)
        return heap[0][1] if heap is not None and self._settled(heap) else NEVER

    def steps(self, stream: Stream) -> int:
        """What a stream has spent, as it counts."""
        return stream.spent // STEP if self.shares else 0

    def _spend(self, request: Request, queue: StreamQueue) -> None:
        stream = queue.stream
        request.queue = None
        self.par = max(self.par, stream.spent)
        if request.attempts == 0:  # a failed attempt is not the stream's fault
            stream.spent += stream.charge
            self.most_spent = max(self.most_spent, stream.spent)

    def _insert(self, request: Request, queue: StreamQueue) -> int:
        index = first_from(queue.frames, request.deadline_us, request.sequence)
        queue.frames.insert(index, request)
        request.queue = queue
        self.waiting += 1
        return index

    def _after(self, queue: StreamQueue, index: int) -> None:
        """Frame `index` has gone. An empty queue keeps its rank, for a frame that is put back."""
        if index == 0 and queue.frames:
            queue.rank_us = queue.frames[0].deadline_us

    def _settled(self, heap: list[Entry]) -> bool:
        """Whether any queue waits; its entry is on top then, and up to date."""
        while heap:
            top = heap[0]
            queue = top[3]
            if queue.entry != top[2]:
                heappop(heap)
            elif not queue.frames:
                heappop(heap)
                queue.entry = -1
            elif self.steps(queue.stream) > top[0] or queue.rank_us > top[1]:
                heappop(heap)
                self._push(queue)
            else:
                return True
        return False

    def _push_if_lower(self, queue: StreamQueue) -> None:
        if queue.entry < 0:
            self._push(queue)
            return
        steps = self.steps(queue.stream)
        if steps < queue.entry_steps or (steps == queue.entry_steps and queue.rank_us < queue.entry_rank_us):
            self._push(queue)

    def _push(self, queue: StreamQueue) -> None:
        heap = self.heaps.get(queue.priority)
        if heap is None:
            heap = []
            self.heaps[queue.priority] = heap
        queue.entry = self.next_entry
        queue.entry_steps = self.steps(queue.stream)
        queue.entry_rank_us = queue.rank_us
        self.next_entry += 1
        heappush(heap, (queue.entry_steps, queue.rank_us, queue.entry, queue))
        if len(heap) > 2 * self.waiting + _SPARE:
            self._clear_away(heap)

    def _clear_away(self, heap: list[Entry]) -> None:
        kept: list[Entry] = []
        for entry in heap:
            queue = entry[3]
            if queue.entry == entry[2]:
                if queue.frames:
                    kept.append(entry)
                else:
                    queue.entry = -1
        heapify(kept)
        heap[:] = kept


def waits(stream: Stream) -> bool:
    """Whether any frame of the stream waits for its turn."""
    if stream.queue is not None and stream.queue.frames:
        return True
    if stream.more_queues is not None:
        for queue in stream.more_queues:
            if queue.frames:
                return True
    return False


def queue_of(stream: Stream, priority: int) -> StreamQueue:
    """A stream's queue of this priority, made when it is new."""
    first = stream.queue
    if first is None:
        first = StreamQueue(stream, priority)
        stream.queue = first
    if first.priority == priority:
        return first
    if stream.more_queues is None:
        stream.more_queues = []
    for queue in stream.more_queues:
        if queue.priority == priority:
            return queue
    made = StreamQueue(stream, priority)
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
