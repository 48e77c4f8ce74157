"""The scheduler core: events in, actions out. One core schedules one model.

Rules: pure (no clock, no I/O, no threads); integer microseconds on the driver's one clock, and a time
before the last one is taken as the last one; ids come from a counter of the instance. The simulator and the
live dispatcher run this same object, and the same events give the same actions.

Use:
    core = SchedulerCore(served)
    for action in core.handle(RequestArrived(request_id=7, deadline_us=now_us + served.slo_us), now_us): ...
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.serving import ServedModel, without_ends
from python_backend.scheduler.actions import Action, DropReason, Ticket, WakeAt
from python_backend.scheduler.batches import Batch, Request
from python_backend.scheduler.events import (
    BatchFailed,
    Event,
    Inherited,
    LinkBehind,
    LinkTaken,
    RequestArrived,
    RequestCancelled,
    StageCompleted,
    TimerFired,
    WorkerBack,
    WorkerLost,
    WorkerTaken,
    Yielded,
)
from python_backend.scheduler.invariants import check_state
from python_backend.scheduler.links import AS_PLANNED
from python_backend.scheduler.policies import make_policy
from python_backend.scheduler.policy import Policy, fastest_path_us, next_hopeless_us
from python_backend.scheduler.state import State
from python_backend.scheduler.timelines import NEVER


class SchedulerCore:
    """Schedules the frames of one model on the workers of its plan.

    `policy` is a name (see policies.POLICIES) or a Policy of its own; batch ids count up from
    `batch_ids_from`.
    """

    def __init__(
        self,
        served: ServedModel,
        policy: str | Policy = "adaptive",
        batch_ids_from: int = 0,
        told: bool = False,
    ) -> None:
        """served: without a pipeline where this core owns nothing: frames wait for another core as long as
        its unowned_us allows, and without that are dropped. told: whether
        LinkTaken will tell what other models send over the entry's uplink.
        """
        self.told: bool = told
        self._policy: Policy = make_policy(policy) if isinstance(policy, str) else policy
        if not self._policy.counts_ends:
            served = without_ends(served)
        self.served_model: ServedModel = served
        self._state: State = State(served, batch_ids_from)
        if told and self._state.entry is not None:
            self._state.links.told[self._state.entry.uplink] = True
        self._policy.attach(self._state)
        self._yields: bool = not served.pipelines and served.unowned_us is not None
        """Whether another core has, or will have, this one's frames."""
        self._fastest_us: int = served.fastest_us()
        self._wake_us: int = NEVER
        """The wake-up that the driver was last asked for and has not delivered."""

    def handle(self, event: Event, now_us: int) -> list[Action]:
        """Everything to do because of `event` at `now_us`, in order. Raises ValueError for events that make
        no sense."""
        state = self._state
        actions = self._begin(now_us)
        now_us = state.now_us
        if isinstance(event, RequestArrived):
            self._arrived(event, now_us)
        elif isinstance(event, StageCompleted):
            self._completed(event, now_us)
        elif isinstance(event, TimerFired):
            if self._wake_us <= now_us:
                self._wake_us = NEVER
        elif isinstance(event, BatchFailed):
            self._failed(event)
        elif isinstance(event, RequestCancelled):
            self._cancelled(event.request_id)
        elif isinstance(event, LinkTaken):
            self._state.version += 1
            self._state.links.taken(event.link, event.start_us, event.until_us)
            return actions  # it makes nothing possible that was not before
        elif isinstance(event, LinkBehind):
            self._state.version += 1
            self._state.links.behind(event.link, event.is_down, event.behind_us, event.pace)
            return actions  # whoever tells it has more to tell
        elif isinstance(event, WorkerLost):
            self._worker(event.worker, True)
        elif isinstance(event, WorkerBack):
            self._worker(event.worker, False)
        elif isinstance(event, WorkerTaken):
            pipeline, stage, worker = self._place(event.worker)
            self._state.hold(pipeline, stage, worker, event.until_us)
        elif isinstance(event, Inherited):
            self._state.inherit(event.guard_us, event.frame_bytes, event.prepare_us)
        elif isinstance(event, Yielded):
            self._yields = True
        if state.waiting.count > 0 or self._policy.pending():
            self._schedule(now_us)
        return actions

    def handle_arrivals(self, events: Sequence[RequestArrived], now_us: int) -> list[Action]:
        """As `handle`, for frames that came together: none is sent before all are known, so that they can
        share a batch.
        """
        actions = self._begin(now_us)
        for event in events:
            self._arrived(event, self._state.now_us)
        self._schedule(self._state.now_us)
        return actions

    def check_invariants(self) -> None:
        """Raise AssertionError when the state contradicts itself. Costs a walk over everything: for tests."""
        check_state(self._state, self._policy.held())

    @property
    def awaits_owner(self) -> bool:
        """Whether frames wait here only until another core has them."""
        return self._yields and fastest_path_us(self._state) == NEVER

    # What metrics read

    def link_use(self, ticket: Ticket) -> LinkTaken | None:
        """What a ticket's frames take of the entry's uplink, for the other models' cores; None where that
        is not counted.
        """
        entry = self._state.entry
        batch = self._state.batches.get(ticket.batch_id)
        if entry is None or batch is None or self.served_model.entry is None:
            return None
        first = batch.hops[0]
        if first is None:
            return None
        return LinkTaken(self.served_model.entry.uplink, first.transfer_start_us, first.up_until_us)

    @property
    def queue_length(self) -> int:
        """Frames that wait."""
        return self._state.waiting.count

    def backlog_us(self, now_us: int) -> int:
        """About how long a frame that came now would wait: until a worker of a first stage is free, and for
        the frames that wait already.
        """
        soonest_us = NEVER
        for pipeline in self._state.pipelines:
            pool = pipeline.pools[0]
            worker = pool.earliest()
            if worker >= 0:
                soonest_us = min(soonest_us, pool.ready_us(worker))
        if soonest_us == NEVER:
            return self.served_model.slo_us
        ahead_us = int(self._state.waiting.count * 1e6 / self.served_model.planned_rps)
        return max(0, soonest_us - now_us) + ahead_us

    @property
    def in_flight(self) -> int:
        """Batches sent and not answered."""
        return len(self._state.batches)

    @property
    def unfinished(self) -> int:
        """Frames that have not ended: waiting or under way."""
        return len(self._state.requests)

    @property
    def served(self) -> int:
        """Frames answered, late ones included."""
        return self._state.served

    @property
    def late(self) -> int:
        """Frames answered after their deadline."""
        return self._state.late

    @property
    def dispatched_batches(self) -> int:
        """Batches sent so far."""
        return self._state.dispatched_batches

    @property
    def guard_us(self) -> int:
        """Time that predictions are now given to be wrong by."""
        return self._state.guard_us

    @property
    def next_batch_id(self) -> int:
        """The id that the next batch will have."""
        return self._state.next_batch_id

    @property
    def known_streams(self) -> int:
        """Streams that are remembered."""
        return 0 if self._state.streams is None else len(self._state.streams.by_name)

    def drops(self) -> dict[DropReason, int]:
        """Frames dropped so far, by reason."""
        return dict(self._state.drops)

    def worker_busy_until_us(self) -> dict[str, int]:
        """When each worker will have done all that is reserved on it."""
        return {
            name: pool.free_us[worker]
            for pipeline in self._state.pipelines
            for pool in pipeline.pools
            for worker, name in enumerate(pool.names)
        }

    def lost_workers(self) -> list[str]:
        """Workers that take no work."""
        return [
            name
            for pipeline in self._state.pipelines
            for pool in pipeline.pools
            for worker, name in enumerate(pool.names)
            if pool.lost[worker]
        ]

    # When another table takes this one's place

    def knows(self, worker: str) -> bool:
        """Whether this core's tables have a worker of that name."""
        return worker in self._state.by_worker

    def number_from(self, batch_id: int) -> None:
        """Count batches from there on. Before the first one."""
        self._state.next_batch_id = batch_id

    def forget_frames(self) -> None:
        """Another table's core has the frames from now on. Batches under way end as ever, without them."""
        state = self._state
        for request in state.requests.values():
            if request.batch is None and not self._policy.forget(request):
                state.waiting.remove(request)
            request.batch = None
            if state.streams is not None:
                state.streams.ended(request)
        state.requests.clear()

    def legacy(self) -> list[Event]:
        """What the core of another table must be told before its first frame: what was learned here, which
        workers are lost, until when workers are taken and uplinks are in use.
        """
        state = self._state
        entry = state.entry
        told: list[Event] = [
            Inherited(state.guard_us, entry.mean_bytes, entry.mean_prepare_us)
            if entry is not None
            else Inherited(state.guard_us, 0, 0)
        ]
        told += [WorkerLost(name) for name in self.lost_workers()]
        told += [
            WorkerTaken(name, until_us)
            for name, until_us in self.worker_busy_until_us().items()
            if until_us > state.now_us
        ]
        names = {index: name for name, index in state.links.up_names.items()}
        for uplink, busy in enumerate(state.links.up_busy):
            told += [
                LinkTaken(names[uplink], hop.transfer_start_us, hop.up_until_us)
                for hop in busy
                if hop.up_until_us > state.now_us
            ]
        told += [
            LinkBehind(name, is_down, 0, paces[index])
            for is_down, named, paces in (
                (False, state.links.up_names, state.links.up_pace),
                (True, state.links.down_names, state.links.down_pace),
            )
            for name, index in named.items()
            if paces[index] > AS_PLANNED
        ]
        return told

    # Events

    def _begin(self, now_us: int) -> list[Action]:
        """Go to `now_us`, never back; the list that actions will be put in."""
        state = self._state
        state.now_us = max(now_us, state.now_us)
        state.links.now_us = state.now_us
        actions: list[Action] = []
        state.actions = actions
        return actions

    def _arrived(self, event: RequestArrived, now_us: int) -> None:
        state = self._state
        if event.request_id in state.requests:
            raise ValueError(
                f"request_id {event.request_id} arrived while it is still being served; ids must be unique"
            )
        request = Request(event.request_id, event.deadline_us, event.priority, state.sequence, now_us)
        state.sequence += 1
        if state.entry is not None:
            state.entry.arrived(request, event.frame_bytes, event.pixels)
        state.requests[event.request_id] = request
        if state.streams is None:
            state.waiting.insert(request)
            return
        refused = state.streams.arrived(request, event.stream, event.place, event.again, now_us)
        if refused is None:
            self._queue(request)
        else:
            state.drop(request, refused)

    def _queue(self, request: Request) -> None:
        """Let a frame wait, unless a newer one of its stream has come; an older one then need not."""
        state = self._state
        older = None if state.streams is None else state.streams.waits(request)
        if older is not request:
            state.waiting.insert(request)
        if older is not None:
            if older is not request and not self._policy.forget(older):
                state.waiting.remove(older)
            state.drop(older, DropReason.SUPERSEDED)

    def _completed(self, event: StageCompleted, now_us: int) -> None:
        batch = self._batch(event.batch_id, event.attempt)
        if batch is None:
            return
        index = event.stage - batch.first_stage
        if not 0 <= index < len(batch.hops):
            raise ValueError(
                f"stage {event.stage} of batch {event.batch_id}: its ticket has {len(batch.hops)} stages"
            )
        self._state.complete(batch, index, min(event.ended_us, now_us))

    def _failed(self, event: BatchFailed) -> None:
        batch = self._batch(event.batch_id, event.attempt)
        if batch is None:
            return
        for request in self._state.fail(batch):
            self._queue(request)

    def _batch(self, batch_id: int, attempt: int) -> Batch | None:
        """The batch under way, or None for one that has ended or was tried again since."""
        batch = self._state.batches.get(batch_id)
        return batch if batch is not None and batch.attempt == attempt else None

    def _cancelled(self, request_id: int) -> None:
        state = self._state
        request = state.requests.get(request_id)
        if request is None:
            return
        if request.batch is None and not self._policy.forget(request):
            state.waiting.remove(request)
        request.batch = None
        state.drop(request, DropReason.CANCELLED)

    def _place(self, name: str) -> tuple[int, int, int]:
        place = self._state.by_worker.get(name)
        if place is None:
            raise ValueError(f"unknown worker {name!r} of model {self.served_model.model!r}")
        return place

    def _worker(self, name: str, lost: bool) -> None:
        pipeline, stage, worker = self._place(name)
        pool = self._state.pipelines[pipeline].pools[stage]
        if pool.lost[worker] != lost:
            self._state.version += 1
            pool.set_usable(worker, lost, False)

    def _schedule(self, now_us: int) -> None:
        if self.awaits_owner:
            wake_us = self._drop_unowned(now_us)
        else:
            wake_us = self._policy.schedule(self._state, now_us)
        if wake_us == NEVER and self._state.waiting.count > 0:
            # Every worker that could take them shows no sign of life, and may never do so.
            wake_us = next_hopeless_us(self._state, now_us)
        if wake_us != NEVER and wake_us != self._wake_us:
            self._wake_us = wake_us
            self._state.actions.append(WakeAt(wake_us))

    def _drop_unowned(self, now_us: int) -> int:
        """Drop the frames that no other core could serve in time any more; returns when the next one is."""
        waiting, least_us, next_us = self._state.waiting, now_us + self._fastest_us, NEVER
        for level in waiting.levels:
            hopeless = level.first_from(least_us) - level.head
            if hopeless > 0:
                for request in waiting.take(level, level.head, hopeless):
                    late = request.arrived_us + self._fastest_us > request.deadline_us
                    self._state.drop(request, DropReason.EXPIRED if late else DropReason.NO_OWNER)
            if level.size() > 0:
                next_us = min(next_us, level.frames[level.head].deadline_us - self._fastest_us + 1)
        return next_us
