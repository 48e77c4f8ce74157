"""What must hold of a model's streams after every event. For tests: a walk over everything."""

from __future__ import annotations

from python_backend.scheduler.batches import Request, Stream, StreamQueue
from python_backend.scheduler.state import State
from python_backend.scheduler.streams.book import Streams
from python_backend.scheduler.streams.heap import before
from python_backend.scheduler.streams.turns import TurnTaking


def check_streams(state: State) -> None:
    """Raise AssertionError naming what contradicts what."""
    streams = state.streams
    if streams is None:
        assert all(request.stream is None for request in state.requests.values()), "a stream without streams"
        return
    waiting = state.waiting.all()
    for name, stream in streams.by_name.items():
        assert stream.name == name, f"stream {name!r} is kept under another name"
        _check_open(state, stream)
    for request in state.requests.values():
        mine = request.stream
        assert mine is not None, f"request {request.request_id} is of no stream"
        assert streams.by_name.get(mine.name) is mine, f"stream {mine.name!r} was forgotten too early"
    if streams.newest:
        _check_newest(streams, waiting)
    if streams.turns is not None:
        _check_turns(streams, streams.turns, waiting)


def _check_open(state: State, stream: Stream) -> None:
    open_now = sum(1 for request in state.requests.values() if request.stream is stream)
    assert open_now == stream.open, f"stream {stream.name!r}: the count of its open frames is wrong"


def _check_newest(streams: Streams, waiting: list[Request]) -> None:
    for stream in streams.by_name.values():
        if not stream.name:
            continue
        mine = [request for request in waiting if request.stream is stream]
        assert len(mine) <= 1, f"stream {stream.name!r}: more than one of its frames waits"
        assert stream.waiting is (mine[0] if mine else None), f"stream {stream.name!r}: another frame waits"
        for request in mine:
            assert request.request_id == stream.newest_id, f"stream {stream.name!r}: an old frame waits"


def _check_turns(streams: Streams, turns: TurnTaking, waiting: list[Request]) -> None:
    assert turns.waiting == len(waiting), "the count of frames that wait for their turn is wrong"
    in_queues: set[int] = set()
    standing = 0
    for stream in streams.by_name.values():
        for queue in (stream, *(stream.more_queues or ())):
            in_queues |= {id(request) for request in queue.frames}
            standing += bool(queue.frames)
            _check_queue(turns, stream, queue)
    assert in_queues == {id(request) for request in waiting}, "frames wait in no queue, or do not wait"
    assert standing == sum(len(heap.queues) for heap in turns.heaps.values()), "a queue stands twice"
    for heap in turns.heaps.values():
        for at, queue in enumerate(heap.queues):
            assert not at or not before(queue, heap.queues[(at - 1) // 2]), "a queue comes too late"


def _check_queue(turns: TurnTaking, stream: Stream, queue: StreamQueue) -> None:
    name = f"queue {queue.priority} of stream {stream.name!r}"
    order = [(request.deadline_us, request.sequence) for request in queue.frames]
    assert order == sorted(order), f"{name} is out of order"
    for request in queue.frames:
        assert request.queue is queue, f"{name}: a frame sits elsewhere"
        assert request.priority == queue.priority, f"{name}: a frame of another priority"
    if not queue.frames:
        assert queue.at == -1, f"{name}: it waits without a frame"
        return
    assert queue.rank_us <= queue.frames[0].deadline_us, f"{name}: its rank is after its first frame"
    assert turns.heaps[queue.priority].queues[queue.at] is queue, f"{name}: another one stands in its place"
    assert queue.steps == turns.steps(stream), f"{name}: its turn is not where its stream's spending says"
