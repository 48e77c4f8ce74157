"""What must hold of the state after every event. For tests: a walk over everything."""

from __future__ import annotations

from itertools import pairwise

from python_backend.scheduler.batches import Request, Reservation
from python_backend.scheduler.state import State
from python_backend.scheduler.streams.checks import check_streams


def check_state(state: State, held: list[Request]) -> None:
    """Raise AssertionError naming what contradicts what."""
    _check_requests(state, held)
    _check_batches(state)
    _check_workers(state)
    _check_links(state)
    check_streams(state)


def _check_requests(state: State, held: list[Request]) -> None:
    waiting = state.waiting.all()
    assert len(waiting) == state.waiting.count, "the queue's count is wrong"
    ids = {request.request_id for request in waiting + held}
    assert len(ids) == len(waiting) + len(held), "a frame waits twice"
    travelling: set[int] = set()
    for batch in state.batches.values():
        for request in batch.requests:
            if request.batch is batch:
                assert request.request_id not in travelling, (
                    f"request {request.request_id} travels in two batches"
                )
                travelling.add(request.request_id)
    assert not ids & travelling, f"requests {ids & travelling} wait and travel"
    assert ids | travelling == set(state.requests), (
        "a frame that has not ended is nowhere, or one that has is somewhere"
    )
    order = [(-request.priority, request.deadline_us, request.sequence) for request in waiting]
    assert order == sorted(order), "the queue is out of order"


def _check_batches(state: State) -> None:
    for batch in state.batches.values():
        end_us = -1
        for hop in batch.hops:
            if hop is None:
                continue
            assert hop.batch is batch, "a reservation belongs to another batch"
            assert end_us <= hop.transfer_start_us, (
                f"batch {batch.batch_id}: transfer before the stage before it ends"
            )
            assert (
                hop.transfer_start_us <= hop.transfer_end_us <= hop.ready_us <= hop.start_us <= hop.end_us
            ), "times out of order"
            end_us = hop.end_us
        answer = batch.answer
        if answer is not None:
            assert answer.batch is batch, "the way back belongs to another batch"
            assert end_us + answer.delay_us <= answer.transfer_start_us, "answers go before they are there"


def _check_workers(state: State) -> None:
    for pipeline in state.pipelines:
        for stage, pool in enumerate(pipeline.pools):
            for worker, name in enumerate(pool.names):
                end_us = max(pool.done_us[worker], pool.held_us[worker])
                for hop in pool.outstanding[worker]:
                    batch = hop.batch
                    assert batch is not None, f"{name}: reserved for nobody"
                    assert state.batches.get(batch.batch_id) is batch, f"{name}: reserved for a dead batch"
                    assert (hop.stage, hop.worker) == (stage, worker), (
                        f"{name}: reservation of another worker"
                    )
                    assert hop.start_us >= end_us, f"{name}: intervals overlap"
                    end_us = hop.end_us
                assert pool.free_us[worker] >= end_us, (
                    f"{name}: said to be free before its last reservation ends"
                )
            assert pool.busy == sum(1 for hops in pool.outstanding if hops), (
                "the count of busy workers is wrong"
            )
            assert pool.usable == pool.lost.count(False), "the count of usable workers is wrong"
            for group in range(len(pool.groups)):
                _check_group(state, pipeline.index, stage, group)


def _check_links(state: State) -> None:
    links = state.links
    due = [hop for batch in state.batches.values() for hop in batch.hops if hop is not None]
    due += [batch.answer for batch in state.batches.values() if batch.answer is not None]
    due = [hop for hop in due if hop.uplink >= 0]
    for is_down, busy_of in ((False, links.up_busy), (True, links.down_busy)):
        of = "downlink" if is_down else "uplink"
        for link, busy in enumerate(busy_of):
            ahead = [hop for hop in busy if _until_us(hop, is_down) > state.now_us]
            listed = {id(hop) for hop in ahead}
            assert len(listed) == len(ahead), f"{of} {link}: a transfer is reserved twice"
            for hop in due:
                held = _wire_us(hop, is_down) > 0 and hop.transfer_end_us > state.now_us
                if held and (hop.downlink if is_down else hop.uplink) == link:
                    assert id(hop) in listed or _until_us(hop, is_down) <= state.now_us, (
                        f"{of} {link}: a transfer of a batch is not reserved"
                    )
            for hop in ahead:
                # Of batches that ended what is on its way back, and what other models send.
                assert hop.batch is not None or hop.worker < 0, f"{of} {link}: reserved for nobody"
            starts = [hop.transfer_start_us for hop in busy]
            assert starts == sorted(starts), f"{of} {link}: out of order"
            committed = [hop for hop in ahead if not hop.moved]
            for before, after in pairwise(committed):
                assert _until_us(before, is_down) <= after.transfer_start_us, (
                    f"{of} {link}: transfers overlap"
                )


def _until_us(hop: Reservation, is_down: bool) -> int:
    return hop.down_until_us if is_down else hop.up_until_us


def _wire_us(hop: Reservation, is_down: bool) -> int:
    return hop.down_wire_us if is_down else hop.up_wire_us


def _check_group(state: State, pipeline: int, stage: int, group: int) -> None:
    pool = state.pipelines[pipeline].pools[stage]
    members = [
        w
        for w in range(len(pool.names))
        if pool.worker_group[w] == group and not pool.lost[w] and not pool.stalled[w]
    ]
    top = pool.top_of(group)
    if not members:
        assert top < 0, "a lost worker is offered"
        return
    assert pool.free_us[top] == min(pool.free_us[w] for w in members), "not the earliest worker is offered"
