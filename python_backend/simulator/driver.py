"""Virtual time around a scheduler core: arrivals in, true completions fed back, everything counted.

Rules: events are handled in order of time; at equal times completions go first, then arrivals, then the
core's timer. The core's actions are carried out at once. Memory is bounded by what is under way, not by the
number of frames.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Final

from planner.serving import ServedModel
from python_backend.scheduler.actions import Action, Dispatch, Drop, DropReason, WakeAt
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event, LinkTaken, RequestArrived, StageCompleted, TimerFired
from python_backend.scheduler.ingress import BatchLoad, Entry
from python_backend.scheduler.links import Links
from python_backend.scheduler.streams.answer_order import AnswerOrder, Released
from python_backend.scheduler.timelines import NEVER
from python_backend.simulator.counts import SimulatedCounts
from python_backend.simulator.execution import Execution
from python_backend.simulator.streams import CameraTotals

FrameBytes = Iterator[int]
Places = Iterator[tuple[str, int]]
"""Of each frame in turn: its stream and its place there."""
PROGRESS_EVERY: Final = 20_000
"""Arrivals between two calls of a progress callback."""
TIME_EVERY: Final = 16
"""One decision in so many is timed."""
_ANSWERS_BACK: Final = -1
_ORDER_DUE: Final = -2
"""In place of a stage's number: a batch's answers are back; an answer has waited long enough for others."""


class SimulatedDriver:
    """Runs one core over one stream of arrivals. `observe(event, now_us, actions)` sees everything in
    order."""

    def __init__(
        self,
        served: ServedModel,
        core: SchedulerCore,
        execution: Execution | None = None,
        observe: Callable[[Event, int, list[Action]], None] | None = None,
        progress: Callable[[int], None] | None = None,
        time_decisions: bool = False,
        frame_bytes: FrameBytes | None = None,
        places: Places | None = None,
    ) -> None:
        """frame_bytes: of each frame in turn; None: as planned. places: None: frames name no stream."""
        self.core: SchedulerCore = core
        self.execution: Execution | None = execution
        self.observe: Callable[[Event, int, list[Action]], None] | None = observe
        self.progress: Callable[[int], None] | None = progress
        self.time_decisions: bool = time_decisions
        self.max_missed: int = NEVER
        """The run is broken off when more frames than this are late or dropped."""
        self.missed: int = 0
        self.slo_us: int = served.slo_us
        self.now_us: int = 0
        self.arrivals: Iterator[int] = iter(())
        self.next_arrival: int = NEVER
        self.wake_us: int = NEVER
        self.completions: list[tuple[int, int, int, int, int]] = []
        """Heap of (end, serial number, batch, attempt, stage)."""
        self.serial: int = 0
        self.under_way: dict[int, Dispatch] = {}
        self.answered_us: dict[int, int] = {}
        """By batch under way: when its answers are back."""
        self.arrived_us: dict[int, int] = {}
        entry = core.served_model.entry
        self.entry: Entry | None = None if entry is None else Entry(entry, Links())
        self.frame_bytes: FrameBytes | None = frame_bytes
        self.tell: Callable[[LinkTaken], None] | None = None
        """Told what this model's batches take of the entry's uplink."""
        self.load: dict[int, tuple[int, int]] = {}
        """By open frame, where the way in counts: its bytes, and the time that preparing it takes of a
        core."""
        self.counts: SimulatedCounts = SimulatedCounts(served)
        self.places: Places | None = places
        self.streams: CameraTotals | None = None if places is None else CameraTotals()
        in_order = served.streams is not None and served.streams.order == "stream"
        self.order: AnswerOrder | None = AnswerOrder() if in_order else None
        self.order_us: int = NEVER
        """When the order of answers is looked at next."""

    def run(self, arrivals: Iterator[int]) -> SimulatedCounts:
        """Feed all arrivals, then go on until every frame has ended (or too many have missed)."""
        # What the core makes has no cycles; collecting costs a tenth of the time and finds nothing.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._run(arrivals)
        finally:
            if collecting:
                gc.enable()

    def _run(self, arrivals: Iterator[int]) -> SimulatedCounts:
        self.begin(arrivals)
        while self.missed <= self.max_missed and self.step():
            pass
        return self.counts

    def begin(self, arrivals: Iterator[int]) -> None:
        """Be ready for `step`. For several drivers at once; else there is `run`."""
        self.arrivals = arrivals
        self.next_arrival = next(arrivals, NEVER)

    def next_us(self) -> int:
        """When the next event is; NEVER after the last."""
        completion_us = self.completions[0][0] if self.completions else NEVER
        return min(completion_us, self.next_arrival, self.wake_us)

    def step(self) -> bool:
        """Handle the next event; False when there is none."""
        completion_us = self.completions[0][0] if self.completions else NEVER
        next_arrival = self.next_arrival
        if completion_us <= next_arrival and completion_us <= self.wake_us:
            if completion_us == NEVER:
                return False
            self._complete()
        elif next_arrival <= self.wake_us:
            self.arrive(next_arrival, next_arrival)
            self.next_arrival = next(self.arrivals, NEVER)
            if self.progress is not None and self.counts.offered % PROGRESS_EVERY == 0:
                self.progress(self.now_us)
        else:
            self.now_us = self.wake_us
            self.wake_us = NEVER
            self._handle(TimerFired())
        return True

    def arrive(self, now_us: int, born_us: int) -> None:
        """A frame comes now that its client sent at `born_us`."""
        self.now_us = now_us
        request_id = self.counts.offered
        self.arrived_us[request_id] = born_us
        self.counts.offered += 1
        self._handle(self._arrival(request_id, born_us + self.slo_us))

    def _arrival(self, request_id: int, deadline_us: int) -> RequestArrived:
        entry = self.entry
        if entry is None and self.places is None:
            return RequestArrived(request_id, deadline_us)
        stream, place = self._place(request_id, deadline_us)
        if entry is None:
            return RequestArrived(request_id, deadline_us, 0, 0, 0, stream, place)
        size = entry.planned_bytes
        if self.frame_bytes is not None:
            size = next(self.frame_bytes)
        self.load[request_id] = size, entry.frame_us(size, entry.planned_pixels)
        return RequestArrived(request_id, deadline_us, 0, size, entry.planned_pixels, stream, place)

    def _place(self, request_id: int, deadline_us: int) -> tuple[str, int]:
        """The frame's stream and place."""
        if self.places is None or self.streams is None:
            return "", -1
        stream, place = next(self.places)
        if stream:
            self.streams.came(request_id, stream, place)
            if self.order is not None:
                self.order.came(request_id, stream, deadline_us)
        return stream, place

    def _load(self, dispatch: Dispatch) -> BatchLoad | None:
        """What a batch brings; its frames are forgotten."""
        if self.entry is None:
            return None
        brought = [self.load.pop(request_id) for request_id in dispatch.request_ids]
        return BatchLoad(sum([size for size, _ in brought]), [frame_us for _, frame_us in brought])

    def _complete(self) -> None:
        entry = heappop(self.completions)
        self.now_us = entry[0]
        batch_id = entry[2]
        stage = entry[4]
        if stage < 0:
            self._order_answers(batch_id, stage)
            return
        dispatch = self.under_way[batch_id]
        if stage == dispatch.ticket.first_stage + len(dispatch.ticket.hops) - 1:
            del self.under_way[batch_id]
            self._finish(dispatch, stage)
        self._handle(StageCompleted(batch_id, entry[3], stage, self.now_us))

    def _finish(self, dispatch: Dispatch, stage: int) -> None:
        """Count the frames of a batch whose last stage ended."""
        if stage < self.counts.last_stage[dispatch.ticket.pipeline]:
            return
        answered_us = self.answered_us.pop(dispatch.ticket.batch_id, self.now_us)
        if self.order is not None:
            self.under_way[dispatch.ticket.batch_id] = dispatch
            self._expect(answered_us, dispatch.ticket.batch_id, 0, _ANSWERS_BACK)
            return
        for request_id in dispatch.request_ids:
            self._answer(request_id, answered_us)

    def _answer(self, request_id: int, answered_us: int) -> None:
        latency_us = answered_us - self.arrived_us.pop(request_id)
        self.missed += int(latency_us > self.slo_us)
        self.counts.answered(latency_us)
        if self.streams is not None:
            self.streams.answered(request_id, latency_us <= self.slo_us)

    def _drop(self, request_id: int, reason: DropReason) -> None:
        if self.arrived_us.pop(request_id, -1) < 0:
            return  # it was overtaken, and has its answer
        self.load.pop(request_id, None)
        self.missed += int(reason is not DropReason.SUPERSEDED)
        self.counts.dropped(reason)
        if self.streams is not None:
            self.streams.dropped(request_id, reason is DropReason.SUPERSEDED)

    def _order_answers(self, batch_id: int, what: int) -> None:
        """The answers of a batch are back, or some have waited long enough for others."""
        assert self.order is not None
        if what == _ORDER_DUE:
            self.order_us = NEVER
            self._release(self.order.expire(self.now_us))
            return
        for request_id in self.under_way.pop(batch_id).request_ids:
            if request_id in self.order.open:
                self._release(self.order.ready(request_id, self.now_us))
            elif request_id in self.arrived_us:
                self._answer(request_id, self.now_us)

    def _release(self, released: Released) -> None:
        for request_id in released.answers:
            self._answer(request_id, self.now_us)
        for request_id in released.overtaken:
            self._drop(request_id, DropReason.OVERTAKEN)
        if self.order is not None and self.order.next_us < self.order_us:
            self.order_us = max(self.order.next_us, self.now_us)
            self._expect(self.order_us, 0, 0, _ORDER_DUE)

    def _handle(self, event: Event) -> None:
        counts = self.counts
        counts.events += 1
        if self.time_decisions and counts.events % TIME_EVERY == 0:
            start_ns = time.perf_counter_ns()
            actions = self.core.handle(event, self.now_us)
            counts.decided(time.perf_counter_ns() - start_ns)
        else:
            actions = self.core.handle(event, self.now_us)
        if self.observe is not None:
            self.observe(event, self.now_us, actions)
        for action in actions:
            if isinstance(action, Dispatch):
                self._dispatch(action)
            elif isinstance(action, Drop):
                self._drop(action.request_id, action.reason)
                if self.order is not None:
                    self._release(self.order.ended(action.request_id, self.now_us))
            elif isinstance(action, WakeAt):
                self.wake_us = action.time_us

    def _dispatch(self, dispatch: Dispatch) -> None:
        ticket = dispatch.ticket
        self.under_way[ticket.batch_id] = dispatch
        stage = ticket.first_stage
        if self.streams is not None:
            self.streams.sent(dispatch.request_ids)
        load = self._load(dispatch)
        if self.tell is not None and (use := self.core.link_use(ticket)) is not None:
            self.tell(use)
        if self.execution is None:
            if load is not None:
                self.answered_us[ticket.batch_id] = ticket.answer_us
            for hop in ticket.hops:
                self._expect(hop.end_us, ticket.batch_id, ticket.attempt, stage)
                self.counts.busy(ticket.pipeline, stage, hop.end_us - hop.start_us)
                stage += 1
        else:
            ends = self.execution.run(ticket, self.now_us, load)
            if load is not None:
                self.answered_us[ticket.batch_id] = self.execution.answered_us
            for index, end_us in enumerate(ends):
                self._expect(end_us, ticket.batch_id, ticket.attempt, stage)
                hop = ticket.hops[index]
                self.counts.busy(ticket.pipeline, stage, hop.end_us - hop.start_us)
                stage += 1
        self.counts.sent(ticket.pipeline, len(dispatch.request_ids))

    def _expect(self, end_us: int, batch_id: int, attempt: int, stage: int) -> None:
        self.serial += 1
        heappush(self.completions, (end_us, self.serial, batch_id, attempt, stage))
