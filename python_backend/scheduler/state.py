"""The scheduler's state and the only functions that change it: quote, commit, drop, complete, fail.

Rules: `quote` reads timelines, `commit` alone reserves and refuses a stale quote. A frame ends exactly
once: served by the last stage's completion, or dropped with a reason. Actions are collected in `actions` in
the order decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from planner.serving import ServedModel
from python_backend.scheduler.actions import Action, Dispatch, Drop, DropReason, Hop, Ticket
from python_backend.scheduler.batches import Batch, Request, Reservation
from python_backend.scheduler.errors import StaleQuoteError
from python_backend.scheduler.ingress import BatchLoad, Entry, PipelineEnds
from python_backend.scheduler.links import Links, paced_us
from python_backend.scheduler.streams.book import Streams
from python_backend.scheduler.timelines import PipelineTimelines, Pool
from python_backend.scheduler.waiting import WaitingQueue

GUARD_ODDS: Final = 50
"""The guard settles where one batch in so many ends later than quoted and guarded."""
GUARD_STEPS: Final = 20_000
"""Steps per SLO by which the guard shrinks with every batch that ends as quoted."""


class Quote:
    """A predicted run of `batch_size` frames through stages first_stage ... of a pipeline, valid until the
    next commit. load, answer: where the way in and out is counted."""

    __slots__ = (
        "answer", "batch_size", "finish_us", "first_stage", "hops", "load", "pipeline", "version", "work_us"
    )  # fmt: skip

    def __init__(self, pipeline: int, first_stage: int, batch_size: int, version: int) -> None:
        self.pipeline: int = pipeline
        self.first_stage: int = first_stage
        self.batch_size: int = batch_size
        self.version: int = version
        self.hops: list[Reservation] = []
        self.load: BatchLoad | None = None
        self.answer: Reservation | None = None
        self.finish_us: int = 0
        self.work_us: int = 0
        """Sum of transfers and stage latencies: what is left of the run without queueing."""

    def append(self, hop: Reservation) -> None:
        """Go on with a hop whose times are filled in."""
        self.hops.append(hop)
        self.work_us += hop.ready_us - hop.transfer_start_us + hop.duration_us
        self.finish_us = hop.end_us


class State:
    """One model's queue, timelines, frames and batches under way, and counts for metrics."""

    __slots__ = (
        "actions", "batches", "by_worker", "dispatched_batches",
        "drops", "entry", "guard_step_us", "guard_us", "late", "links", "next_batch_id", "now_us",
        "pipelines", "requests", "sequence", "served", "slo_us", "streams", "ticket_ended",
        "version", "waiting",
    )  # fmt: skip

    def __init__(self, served: ServedModel, batch_ids_from: int) -> None:
        self.slo_us: int = served.slo_us
        self.now_us: int = 0
        self.links: Links = Links({link.name: link.share for link in served.links})
        self.entry: Entry | None = None if served.entry is None else Entry(served.entry, self.links)
        self.pipelines: list[PipelineTimelines] = [
            PipelineTimelines(index, pipeline, self.links, self.entry)
            for index, pipeline in enumerate(served.pipelines)
        ]
        self.waiting: WaitingQueue = WaitingQueue()
        self.streams: Streams | None = None if served.streams is None else Streams(served.streams)
        self.requests: dict[int, Request] = {}
        """Every frame that has not ended."""
        self.batches: dict[int, Batch] = {}
        self.by_worker: dict[str, tuple[int, int, int]] = {}
        """(pipeline, stage, worker) by name."""
        for pipeline in self.pipelines:
            for stage, pool in enumerate(pipeline.pools):
                for worker, name in enumerate(pool.names):
                    self.by_worker[name] = (pipeline.index, stage, worker)
        self.next_batch_id: int = batch_ids_from
        self.sequence: int = 0
        self.version: int = 0
        self.guard_us: int = 0
        """Time that a quote must leave before the deadline: what predictions were found to be wrong by."""
        self.guard_step_us: int = max(1, served.slo_us // GUARD_STEPS)
        self.actions: list[Action] = []
        self.ticket_ended: Callable[[Batch, Reservation], bool] | None = None
        """Set by policies that queue at every stage: takes an ended ticket's frames on, or returns False."""
        self.drops: dict[DropReason, int] = dict.fromkeys(DropReason, 0)
        self.served: int = 0
        self.late: int = 0
        self.dispatched_batches: int = 0

    # Reading

    def finish_us(self, pipeline: PipelineTimelines, batch_size: int, now_us: int) -> int:
        """When `batch_size` frames sent at `now_us` would be through, or -1 when a stage has no worker.

        First-stage workers that only show no sign of life may show one at any moment.
        """
        pools = pipeline.pools
        pool = pools[0]
        worker = pool.earliest()
        entry = self.entry
        if worker < 0:
            return now_us + pipeline.way_us(batch_size, entry) if pipeline.usable() else -1
        ends = pipeline.ends
        time_us = now_us
        if ends is not None and entry is not None:
            load = entry.expected(batch_size)
            worker, time_us = pool.fed(ends, entry, load, now_us)
            pace = self.links.pace(entry.uplink, pool.downlinks[worker])
            time_us += paced_us(ends.transfer_us(load.frame_bytes), pace)
            time_us = entry.cores.ready_us(pool.hosts[worker], time_us, load.prepare_us)
        time_us = max(time_us, pool.free_us[worker]) + pool.latency_us[batch_size - 1]
        for stage in range(1, len(pools)):
            uplink = pool.uplinks[worker]
            pool = pools[stage]
            transfer_us = pipeline.transfer_us[stage - 1][batch_size - 1]
            worker, sent_us = pool.receiver(uplink, time_us, transfer_us)
            if worker < 0:
                return -1
            time_us = max(sent_us + transfer_us, pool.free_us[worker]) + pool.latency_us[batch_size - 1]
        if ends is not None and entry is not None:
            index = batch_size - 1
            time_us = self.links.fit_us(
                pool.uplinks[worker],
                entry.downlink,
                time_us + ends.finish_us[index],
                ends.answer_server_us[index],
                ends.answer_entry_us[index],
            )
            time_us += ends.answer_us[index]
        return time_us

    def quote(
        self, pipeline: PipelineTimelines, batch_size: int, now_us: int, load: BatchLoad | None = None
    ) -> Quote | None:
        """The same, with the intervals to commit; None when a stage has no worker. load: of the very frames,
        needed where the way in is counted."""
        quote = Quote(pipeline.index, 0, batch_size, self.version)
        ends = pipeline.ends
        entry = self.entry
        uplink = -1
        quote.finish_us = now_us
        for stage in range(len(pipeline.pools)):
            pool = pipeline.pools[stage]
            transfer_us = 0
            sent_us = now_us
            if stage > 0:
                transfer_us = pipeline.transfer_us[stage - 1][batch_size - 1]
                worker, sent_us = pool.receiver(uplink, quote.finish_us, transfer_us)
            elif ends is not None and entry is not None and load is not None:
                worker, sent_us = pool.fed(ends, entry, load, now_us)
            else:
                worker = pool.earliest()
            if worker < 0:
                return None
            hop = Reservation(stage, worker, pool.latency_us[batch_size - 1])
            if stage == 0 and ends is not None and entry is not None and load is not None:
                quote.load = load
                _place_fed(hop, pool, ends, entry, load, sent_us)
            else:
                place_hop(hop, pool, uplink, sent_us, transfer_us)
            quote.append(hop)
            uplink = pool.uplinks[worker]
        if ends is not None and entry is not None:
            self._append_answer(quote, ends, entry, uplink)
        return quote

    def _append_answer(self, quote: Quote, ends: PipelineEnds, entry: Entry, uplink: int) -> None:
        """The way of the answers back, after the last stage."""
        index = quote.batch_size - 1
        answer = Reservation(quote.first_stage + len(quote.hops), -1, 0)
        answer.uplink = uplink
        answer.downlink = entry.downlink
        answer.delay_us = ends.finish_us[index]
        answer.up_wire_us = ends.answer_server_us[index]
        answer.down_wire_us = ends.answer_entry_us[index]
        ready_us = quote.finish_us + answer.delay_us
        answer.transfer_start_us = self.links.fit_us(
            uplink, entry.downlink, ready_us, answer.up_wire_us, answer.down_wire_us
        )
        answer.transfer_end_us = answer.transfer_start_us + ends.answer_us[index]
        quote.answer = answer
        quote.work_us += answer.delay_us + answer.transfer_end_us - answer.transfer_start_us
        quote.finish_us = answer.transfer_end_us

    # Changing

    def commit(self, quote: Quote, requests: list[Request]) -> Batch:
        """Reserve what was quoted for these frames, already taken from the queue, and emit the Dispatch.

        Raises StaleQuoteError when something was committed since.
        """
        if quote.version != self.version:
            raise StaleQuoteError(
                f"quote of version {quote.version} where the timelines are at {self.version}"
            )
        self.version += 1
        attempt = 0
        for request in requests:
            attempt = max(attempt, request.attempts)
        batch = Batch(
            self.next_batch_id, attempt, quote.pipeline, quote.first_stage, requests, quote.hops, quote.answer
        )
        self.next_batch_id += 1
        self.batches[batch.batch_id] = batch
        for request in requests:
            request.batch = batch
        if self.streams is not None:
            for request in requests:
                self.streams.sent(request)
        self.dispatched_batches += 1
        self._reserve(batch, quote.hops)
        if quote.load is not None and self.entry is not None:
            first = quote.hops[0]
            host = self.pipelines[batch.pipeline].pools[0].hosts[first.worker]
            self.entry.cores.take(host, first.transfer_end_us, quote.load.prepare_us)
        self.actions.append(self._dispatch(batch, quote.hops))
        return batch

    def _reserve(self, batch: Batch, hops: list[Reservation]) -> None:
        pools = self.pipelines[batch.pipeline].pools
        for hop in hops:
            pool = pools[hop.stage]
            hop.batch = batch
            if not pool.outstanding[hop.worker]:
                pool.busy += 1
            pool.outstanding[hop.worker].append(hop)
            pool.set_free(hop.worker, hop.end_us)
            if hop.uplink >= 0:
                self.links.add(hop)
        if batch.answer is not None:
            batch.answer.batch = batch
            self.links.add(batch.answer)

    def _dispatch(self, batch: Batch, hops: list[Reservation]) -> Dispatch:
        pools = self.pipelines[batch.pipeline].pools
        ticket = Ticket(
            batch_id=batch.batch_id,
            attempt=batch.attempt,
            pipeline=batch.pipeline,
            deadline_us=batch.deadline_us,
            hops=tuple(
                [
                    Hop(
                        pools[hop.stage].names[hop.worker],
                        hop.transfer_start_us,
                        hop.transfer_end_us,
                        hop.start_us,
                        hop.end_us,
                        hop.ready_us,
                    )
                    for hop in hops
                ]
            ),
            first_stage=batch.first_stage,
            answer_us=batch.answered_us(hops[-1].end_us),
        )
        return Dispatch(ticket, tuple([request.request_id for request in batch.requests]))

    def drop(self, request: Request, reason: DropReason) -> None:
        """End a frame that is no longer in the queue."""
        del self.requests[request.request_id]
        if self.streams is not None:
            self.streams.ended(request)
        self.drops[reason] += 1
        self.actions.append(Drop(request.request_id, reason))

    def complete(self, batch: Batch, index: int, ended_us: int) -> None:
        """Hop `index` of a batch ended: free its worker, correct what was predicted from it, and end the
        frames after the last one.

        Notices can be lost: workers serve in reserved order and stages follow one another, so whatever was
        to end before this hop has ended too.
        """
        self._release_before(batch, index, ended_us)
        hop = batch.hops[index]
        if hop is not None:
            self._release(batch, hop, ended_us)
        if index == len(batch.hops) - 1:
            self._learn(ended_us - batch.quoted_us)
            self._retire(batch, ended_us)

    def _release_before(self, batch: Batch, index: int, ended_us: int) -> None:
        """Release the hops of a batch before `index`, one that is known to have ended."""
        for position in range(index):
            earlier = batch.hops[position]
            if earlier is not None:
                self._release(batch, earlier, min(earlier.end_us, ended_us))

    def _learn(self, error_us: int) -> None:
        """Let the guard follow the quantile of 1 - 1 / GUARD_ODDS of the quotes' errors; 0 while all hold."""
        if error_us > self.guard_us:
            self.guard_us = min(self.slo_us // 4, self.guard_us + (GUARD_ODDS - 1) * self.guard_step_us)
        elif self.guard_us > 0:
            self.guard_us = max(0, self.guard_us - self.guard_step_us)

    def _release(self, batch: Batch, hop: Reservation, ended_us: int) -> None:
        """Take a hop that ended, and what was reserved on its worker before it, off the timeline."""
        pool = self.pipelines[batch.pipeline].pools[hop.stage]
        outstanding = pool.outstanding[hop.worker]
        pool.busy -= int(len(outstanding) > 0)
        while outstanding:
            first = outstanding.pop(0)
            owner = first.batch
            if owner is not None:
                owner.hops[first.stage - owner.first_stage] = None
                if first is not hop:
                    self._release_before(owner, first.stage - owner.first_stage, ended_us)
            # No cycles are left behind, so that simulations need no garbage collection.
            first.batch = None
            if first.transfer_end_us > self.now_us:
                self.links.remove(first)
            if first is hop:
                break
        pool.busy += int(len(outstanding) > 0)
        pool.done_us[hop.worker] = max(pool.done_us[hop.worker], ended_us)
        if pool.stalled[hop.worker]:
            pool.set_usable(hop.worker, pool.lost[hop.worker], False)
        if ended_us != hop.end_us:
            self.version += 1
            hop.end_us = ended_us
            self._follow(batch, hop)
            self.rechain(batch.pipeline, hop.stage, hop.worker)

    def _retire(self, batch: Batch, ended_us: int) -> None:
        del self.batches[batch.batch_id]
        answered_us = batch.answered_us(ended_us)
        if batch.answer is not None:
            batch.answer.batch = None  # it holds its links until they have passed
        if self.ticket_ended is not None and self.ticket_ended(batch, batch.last):
            return
        streams = self.streams
        for request in batch.requests:
            if request.batch is batch:
                request.batch = None
                del self.requests[request.request_id]
                if streams is not None:
                    streams.ended(request)
                self.served += 1
                if answered_us > request.deadline_us:
                    self.late += 1

    def _follow(self, batch: Batch, hop: Reservation) -> None:
        """Move the next hop's transfer with `hop`, which was found to end at another time: back over what
        others reserved, forward only where it fits.

        Others are not pushed back. What is reserved in the first gap instead loses far more time than links
        really do, which serve what is ready.
        """
        index = hop.stage - batch.first_stage + 1
        following = batch.hops[index] if index < len(batch.hops) else batch.answer
        if following is None or following.transfer_start_us == hop.end_us + following.delay_us:
            return
        length_us = following.transfer_end_us - following.transfer_start_us
        self.links.remove(following)
        start_us = hop.end_us + following.delay_us
        if start_us > following.transfer_start_us:
            following.moved = True
        else:
            start_us = self.links.fit_us(
                following.uplink, following.downlink, start_us, following.up_wire_us, following.down_wire_us
            )
            start_us = min(start_us, following.transfer_start_us)
        following.transfer_start_us = start_us
        following.transfer_end_us = start_us + length_us
        following.ready_us = following.transfer_end_us
        self.links.add(following)
        if following.worker >= 0:
            self.rechain(batch.pipeline, following.stage, following.worker)

    def inherit(self, guard_us: int, frame_bytes: int, prepare_us: int) -> None:
        """Begin with what another table's core had learned."""
        self.version += 1
        self.guard_us = min(guard_us, self.slo_us // 4)
        if self.entry is not None and frame_bytes > 0:
            self.entry.mean_bytes = frame_bytes
            self.entry.mean_prepare_us = prepare_us

    def hold(self, pipeline: int, stage: int, worker: int, until_us: int) -> None:
        """Batches of another table hold a worker until then; what is reserved on it comes after them."""
        self.version += 1
        self.pipelines[pipeline].pools[stage].held_us[worker] = until_us
        self.rechain(pipeline, stage, worker)

    def rechain(self, pipeline: int, stage: int, worker: int) -> None:
        """Predict anew the intervals that a worker still has to run, in reserved order."""
        pool = self.pipelines[pipeline].pools[stage]
        end_us = max(pool.done_us[worker], pool.held_us[worker])
        for hop in pool.outstanding[worker]:
            start_us = max(hop.ready_us, end_us)
            end_us = start_us + hop.duration_us
            if start_us != hop.start_us:
                hop.start_us = start_us
                hop.end_us = end_us
                if hop.batch is not None:
                    self._follow(hop.batch, hop)
        if end_us != pool.free_us[worker]:
            pool.set_free(worker, end_us)

    def fail(self, batch: Batch) -> list[Request]:
        """Give up a batch: what it still reserved is freed; returns its frames that somebody still waits
        for."""
        self.version += 1
        del self.batches[batch.batch_id]
        for hop in batch.hops:
            if hop is not None:
                pool = self.pipelines[batch.pipeline].pools[hop.stage]
                pool.outstanding[hop.worker].remove(hop)
                hop.batch = None
                self.links.remove(hop)
                pool.busy -= int(not pool.outstanding[hop.worker])
                if hop.start_us < self.now_us:
                    pool.done_us[hop.worker] = max(pool.done_us[hop.worker], min(self.now_us, hop.end_us))
                if pool.stalled[hop.worker]:
                    pool.set_usable(hop.worker, pool.lost[hop.worker], False)
                self.rechain(batch.pipeline, hop.stage, hop.worker)
        if batch.answer is not None:
            batch.answer.batch = None
            self.links.remove(batch.answer)
        orphans = [request for request in batch.requests if request.batch is batch]
        for request in orphans:
            request.batch = None
            request.attempts += 1
        return orphans


def place_hop(hop: Reservation, pool: Pool, uplink: int, sent_us: int, transfer_us: int) -> None:
    """Fill in the times of a hop on its worker: its transfer from `sent_us` on (nothing in a first stage,
    where `uplink` is -1), then the worker's free time."""
    if uplink >= 0:
        hop.uplink = uplink
        hop.downlink = pool.downlinks[hop.worker]
    hop.up_wire_us = transfer_us
    hop.down_wire_us = transfer_us
    hop.transfer_start_us = sent_us
    hop.transfer_end_us = sent_us + transfer_us
    hop.ready_us = hop.transfer_end_us
    hop.start_us = max(hop.ready_us, pool.free_us[hop.worker])
    hop.end_us = hop.start_us + hop.duration_us


def _place_fed(
    hop: Reservation, pool: Pool, ends: PipelineEnds, entry: Entry, load: BatchLoad, sent_us: int
) -> None:
    """The same of a first stage's hop, into which frames come from the entry, and are prepared."""
    hop.uplink = entry.uplink
    hop.downlink = pool.downlinks[hop.worker]
    links = pool.links
    hop.up_wire_us = paced_us(ends.entry_wire_us(load.frame_bytes), links.up_pace[hop.uplink])
    hop.down_wire_us = paced_us(ends.server_wire_us(load.frame_bytes), links.down_pace[hop.downlink])
    hop.transfer_start_us = sent_us
    pace = links.pace(hop.uplink, hop.downlink)
    hop.transfer_end_us = sent_us + paced_us(ends.transfer_us(load.frame_bytes), pace)
    hop.ready_us = entry.cores.ready_us(pool.hosts[hop.worker], hop.transfer_end_us, load.prepare_us)
    hop.start_us = max(hop.ready_us, pool.free_us[hop.worker])
    hop.end_us = hop.start_us + hop.duration_us
