"""The paper's rule as its artifact runs it, for comparison.

- Take the pipeline with the least queueing at its planned batch; one of batch 1 that would miss the head's
  deadline ranks as one SLO worse.
- A head seen for the first time is dropped unless a batch of at least 95 % of the planned size meets its
  deadline.
- Otherwise wait for the planned size as long as the head's deadline allows.

Workers are found by a scan: earliest stage end, or the time when the worker's own uplink is free if that is
later.
"""

from __future__ import annotations

from typing import Final

from python_backend.scheduler.actions import DropReason
from python_backend.scheduler.batches import Request, Reservation
from python_backend.scheduler.policy import Policy, shed_reason
from python_backend.scheduler.state import Quote, State, place_hop
from python_backend.scheduler.timelines import NEVER, PipelineTimelines, Pool
from python_backend.scheduler.waiting import WaitingQueue

SMALLEST_SHARE: Final = 0.95
"""Of the planned batch: a new head that cannot have this much is dropped."""


class ReferencePolicy(Policy):
    """See the module."""

    def __init__(self) -> None:
        self.seen: Request | None = None
        """The head that was looked at before."""

    def schedule(self, state: State, now_us: int) -> int:
        """Look at the head until it has to wait or the queue is empty."""
        while True:
            head = state.waiting.head()
            if head is None:
                return NEVER
            pipeline = self._least_queueing(state, head, now_us)
            if pipeline is None:
                self._drop(state, head, DropReason.NO_WORKER)
            elif head is not self.seen:
                self._first_look(state, pipeline, head, now_us)
            else:
                wake_us = self._second_look(state, pipeline, head, now_us)
                if wake_us != NEVER:
                    return wake_us

    def forget(self, request: Request) -> bool:
        """The head may have been cancelled."""
        if request is self.seen:
            self.seen = None
        return False

    def _first_look(self, state: State, pipeline: PipelineTimelines, head: Request, now_us: int) -> None:
        smallest = max(1, round(SMALLEST_SHARE * pipeline.batch_size))
        if _largest_in_time(state, pipeline, smallest, head, now_us) == 0:
            self._drop(state, head, shed_reason(state, head, now_us))
        else:
            self.seen = head

    def _second_look(self, state: State, pipeline: PipelineTimelines, head: Request, now_us: int) -> int:
        """Send, drop, or return when to look again."""
        size = _largest_in_time(state, pipeline, 1, head, now_us)
        queued = state.waiting.count
        if size == 0:
            self._drop(state, head, shed_reason(state, head, now_us))
        elif size <= queued:
            quote = scan_quote(state, pipeline, size, now_us)
            if quote is not None:
                state.commit(quote, take_first(state.waiting, size))
        else:
            spare_us = head.deadline_us - finish_of(state, pipeline, queued + 1, now_us)
            if spare_us < 0:
                self._drop(state, head, DropReason.OVERLOAD)
            else:
                return now_us + spare_us + 1
        return NEVER

    def _drop(self, state: State, head: Request, reason: DropReason) -> None:
        state.waiting.remove(head)
        state.drop(head, reason)

    def _least_queueing(self, state: State, head: Request, now_us: int) -> PipelineTimelines | None:
        best: PipelineTimelines | None = None
        best_us = NEVER
        for pipeline in state.pipelines:
            quote = scan_quote(state, pipeline, pipeline.batch_size, now_us)
            if quote is None:
                continue
            queueing_us = quote.finish_us - now_us - quote.work_us
            if pipeline.batch_size == 1 and quote.finish_us > head.deadline_us:
                queueing_us += state.slo_us
            if queueing_us < best_us:
                best, best_us = pipeline, queueing_us
        return best


def take_first(waiting: WaitingQueue, count: int) -> list[Request]:
    """Take the `count` most urgent frames from the queue, over all priorities."""
    taken: list[Request] = []
    for level in waiting.levels:
        share = min(level.size(), count - len(taken))
        if share > 0:
            taken += waiting.take(level, level.head, share)
    return taken


def _largest_in_time(
    state: State, pipeline: PipelineTimelines, smallest: int, head: Request, now_us: int
) -> int:
    """The largest batch from the planned one down to `smallest` that meets the head's deadline, or 0."""
    size = pipeline.batch_size
    while size >= smallest:
        if finish_of(state, pipeline, size, now_us) <= head.deadline_us:
            return size
        size -= 1
    return 0


def finish_of(state: State, pipeline: PipelineTimelines, batch_size: int, now_us: int) -> int:
    """When a batch sent now would be through; NEVER without workers."""
    quote = scan_quote(state, pipeline, batch_size, now_us)
    return NEVER if quote is None else quote.finish_us


def scan_quote(state: State, pipeline: PipelineTimelines, batch_size: int, now_us: int) -> Quote | None:
    """A quote whose workers are chosen as the artifact does, each stage for itself."""
    quote = Quote(pipeline.index, 0, batch_size, state.version)
    uplink = -1
    for stage in range(len(pipeline.pools)):
        pool = pipeline.pools[stage]
        transfer_us = 0 if stage == 0 else pipeline.transfer_us[stage - 1][batch_size - 1]
        sent_us = now_us if stage == 0 else max(quote.finish_us, state.links.up_free[uplink])
        worker = _scan(pool, sent_us, transfer_us, pool.latency_us[batch_size - 1])
        if worker < 0:
            return None
        if stage > 0:
            sent_us = max(sent_us, state.links.down_free[pool.downlinks[worker]])
        hop = Reservation(stage, worker, pool.latency_us[batch_size - 1])
        place_hop(hop, pool, uplink, sent_us, transfer_us)
        quote.append(hop)
        uplink = pool.uplinks[worker]
    return quote


def _scan(pool: Pool, sent_us: int, transfer_us: int, latency_us: int) -> int:
    best = -1
    best_us = NEVER
    up_free = pool.links.up_free
    down_free = pool.links.down_free
    for worker in range(len(pool.names)):
        if pool.lost[worker]:
            continue
        ready_us = sent_us
        if not pool.is_first:
            ready_us = max(sent_us, down_free[pool.downlinks[worker]]) + transfer_us
        end_us = max(ready_us, pool.free_us[worker]) + latency_us
        end_us = max(end_us, up_free[pool.uplinks[worker]])
        if end_us < best_us:
            best, best_us = worker, end_us
    return best
