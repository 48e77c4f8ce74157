"""Deadline-aware batching without reservations, after the paper's Nexus-like comparison. For simulation only.

- Every stage has its own queue; a ticket covers one stage, and what ends it joins the next stage's queue
  after its transfer. Feature maps of several batches are merged there, which the live data plane does not
  do.
- A transfer takes its sender's uplink and, because the receiver is not known yet, whichever downlink of the
  next stage is free first: no policy gets links for nothing.
- The earliest free worker of a queue decides: room = the head's deadline - the planned transfers and
  latencies of the later stages - that worker's free time; the batch is the largest up to the planned one
  whose latency and transfer fit.
- A new head that cannot have 95 % of the planned batch, or any head that fits no batch, is dropped; if
  fewer frames wait than would fit, wait until one more would just not fit.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from python_backend.scheduler.actions import DropReason
from python_backend.scheduler.batches import Batch, Request, Reservation
from python_backend.scheduler.policy import Policy, shed_reason
from python_backend.scheduler.reference import SMALLEST_SHARE, take_first
from python_backend.scheduler.state import Quote, State
from python_backend.scheduler.timelines import NEVER, PipelineTimelines
from python_backend.scheduler.waiting import WaitingQueue


class StageQueue:
    """The frames that wait for one stage of one pipeline, and the head that was looked at before."""

    __slots__ = ("pipeline", "seen", "stage", "waiting")

    def __init__(self, pipeline: int, stage: int, waiting: WaitingQueue) -> None:
        self.pipeline: int = pipeline
        self.stage: int = stage
        self.waiting: WaitingQueue = waiting
        self.seen: Request | None = None


class ReactivePolicy(Policy):
    """See the module."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.queues: list[StageQueue] = []
        """All later stages of all pipelines; the first stages share the core's own queue."""
        self.first: StageQueue = StageQueue(0, 0, WaitingQueue())
        self.moving: list[tuple[int, int, Request, StageQueue]] = []
        """Heap of frames on a link: (arrival, serial number, frame, queue)."""
        self.serial: int = 0

    def attach(self, state: State) -> None:
        """Make the queues."""
        self.state = state
        self.first = StageQueue(0, 0, state.waiting)
        for pipeline in state.pipelines:
            for stage in range(1, len(pipeline.pools)):
                self.queues.append(StageQueue(pipeline.index, stage, WaitingQueue()))
        state.ticket_ended = self.move_on

    def held(self) -> list[Request]:
        """Frames on links and in the queues of later stages."""
        return [entry[2] for entry in self.moving] + [r for queue in self.queues for r in queue.waiting.all()]

    def pending(self) -> bool:
        """Whether there are any."""
        if self.moving:
            return True
        for queue in self.queues:  # noqa: SIM110 (a loop compiles to faster code)
            if queue.waiting.count > 0:
                return True
        return False

    def move_on(self, batch: Batch, hop: Reservation) -> bool:
        """Move the frames of a batch on to the next stage; False after the last one."""
        state = self.state
        assert state is not None
        pipeline = state.pipelines[batch.pipeline]
        if hop.stage + 1 >= len(pipeline.pools):
            return False
        queue = self._queue(batch.pipeline, hop.stage + 1)
        uplink = pipeline.pools[hop.stage].uplinks[hop.worker]
        downlink = _first_free(state.links.down_free, pipeline.pools[hop.stage + 1].downlinks)
        start_us = max(hop.end_us, state.links.up_free[uplink], state.links.down_free[downlink])
        arrival_us = start_us + pipeline.transfer_us[hop.stage][len(batch.requests) - 1]
        state.links.up_free[uplink] = arrival_us
        state.links.down_free[downlink] = arrival_us
        for request in batch.requests:
            if request.batch is batch:
                request.batch = None
                self.serial += 1
                heappush(self.moving, (arrival_us, self.serial, request, queue))
        return True

    def forget(self, request: Request) -> bool:
        """Take a cancelled frame off its link or out of a later stage's queue."""
        for queue in self.queues:
            if request in queue.waiting.all():
                queue.waiting.remove(request)
                return True
        staying = [entry for entry in self.moving if entry[2] is not request]
        found = len(staying) < len(self.moving)
        heapify(staying)
        self.moving = staying
        return found

    def schedule(self, state: State, now_us: int) -> int:
        """Look at every queue."""
        while self.moving and self.moving[0][0] <= now_us:
            entry = heappop(self.moving)
            entry[2].stage = entry[3].stage
            entry[3].waiting.insert(entry[2])
        wake_us = self.moving[0][0] if self.moving else NEVER
        for queue in self.queues:
            wake_us = min(wake_us, self._serve(state, queue, now_us))
        return min(wake_us, self._serve(state, self.first, now_us))

    def _queue(self, pipeline: int, stage: int) -> StageQueue:
        for queue in self.queues:
            if queue.pipeline == pipeline and queue.stage == stage:
                return queue
        raise KeyError(f"no queue for stage {stage} of pipeline {pipeline}")

    def _serve(self, state: State, queue: StageQueue, now_us: int) -> int:
        """Send and drop from one queue; returns when to look again."""
        while True:
            head = queue.waiting.head()
            if head is None:
                return NEVER
            pipeline = self._earliest(state, queue)
            if pipeline is None:
                self._drop(state, queue, head, DropReason.NO_WORKER)
                continue
            pool = pipeline.pools[queue.stage]
            worker = pool.earliest()
            start_us = max(now_us, pool.free_us[worker])
            size = self._fitting(pipeline, queue.stage, head, start_us)
            smallest = max(1, round(SMALLEST_SHARE * pipeline.batch_size))
            if size == 0 or (head is not queue.seen and size < smallest):
                self._drop(state, queue, head, shed_reason(state, head, now_us))
                continue
            queue.seen = head
            waiting = queue.waiting.count
            if waiting < size:
                latest_us = head.deadline_us - _later_us(pipeline, queue.stage)
                return max(now_us + 1, latest_us - _stage_us(pipeline, queue.stage, waiting + 1) + 1)
            if start_us > now_us:
                return start_us
            self._send(state, queue, pipeline, worker, size, start_us)

    def _earliest(self, state: State, queue: StageQueue) -> PipelineTimelines | None:
        """The pipeline whose worker of this queue is free first (a later stage has only one)."""
        if queue.stage > 0:
            pipeline = state.pipelines[queue.pipeline]
            return pipeline if pipeline.pools[queue.stage].earliest() >= 0 else None
        best: PipelineTimelines | None = None
        best_us = NEVER
        for pipeline in state.pipelines:
            pool = pipeline.pools[0]
            worker = pool.earliest()
            if worker >= 0 and pool.free_us[worker] < best_us:
                best, best_us = pipeline, pool.free_us[worker]
        return best

    def _fitting(self, pipeline: PipelineTimelines, stage: int, head: Request, start_us: int) -> int:
        room_us = head.deadline_us - _later_us(pipeline, stage) - start_us
        size = pipeline.batch_size
        while size > 0 and _stage_us(pipeline, stage, size) > room_us:
            size -= 1
        return size

    def _send(
        self,
        state: State,
        queue: StageQueue,
        pipeline: PipelineTimelines,
        worker: int,
        size: int,
        now_us: int,
    ) -> None:
        hop = Reservation(queue.stage, worker, pipeline.pools[queue.stage].latency_us[size - 1])
        hop.transfer_start_us = now_us
        hop.transfer_end_us = now_us
        hop.ready_us = now_us
        hop.start_us = now_us
        hop.end_us = now_us + hop.duration_us
        quote = Quote(pipeline.index, queue.stage, size, state.version)
        quote.hops.append(hop)
        quote.finish_us = hop.end_us
        state.commit(quote, take_first(queue.waiting, size))

    def _drop(self, state: State, queue: StageQueue, head: Request, reason: DropReason) -> None:
        queue.waiting.remove(head)
        state.drop(head, reason)


def _first_free(free_us: list[int], links: list[int]) -> int:
    """The link of a list that is free first."""
    best = links[0]
    for link in links:
        if free_us[link] < free_us[best]:
            best = link
    return best


def _stage_us(pipeline: PipelineTimelines, stage: int, size: int) -> int:
    """Latency of a batch and its transfer to the next stage."""
    out_us = pipeline.transfer_us[stage][size - 1] if stage < len(pipeline.transfer_us) else 0
    return pipeline.pools[stage].latency_us[size - 1] + out_us


def _later_us(pipeline: PipelineTimelines, stage: int) -> int:
    """Planned latencies and transfers after the transfer out of a stage."""
    total_us = 0
    for later in range(stage + 1, len(pipeline.pools)):
        total_us += _stage_us(pipeline, later, pipeline.batch_size)
    return total_us
