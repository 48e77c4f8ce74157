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

from planner.serving import ServedModel
from python_backend.scheduler.actions import Action, Dispatch, Drop, WakeAt
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event, RequestArrived, StageCompleted, TimerFired
from python_backend.scheduler.timelines import NEVER
from python_backend.simulator.counts import Counts
from python_backend.simulator.execution import Execution

PROGRESS_EVERY = 20_000
"""Arrivals between two calls of a progress callback."""
TIME_EVERY = 16
"""One decision in so many is timed."""


class Driver:
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
    ) -> None:
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
        self.wake_us: int = NEVER
        self.completions: list[tuple[int, int, int, int, int]] = []
        """Heap of (end, serial number, batch, attempt, stage)."""
        self.serial: int = 0
        self.under_way: dict[int, Dispatch] = {}
        self.arrived_us: dict[int, int] = {}
        self.counts: Counts = Counts(served)

    def run(self, arrivals: Iterator[int]) -> Counts:
        """Feed all arrivals, then go on until every frame has ended (or too many have missed)."""
        # What the core makes has no cycles; collecting costs a tenth of the time and finds nothing.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._run(arrivals)
        finally:
            if collecting:
                gc.enable()

    def _run(self, arrivals: Iterator[int]) -> Counts:
        next_arrival = next(arrivals, NEVER)
        request_id = 0
        while self.missed <= self.max_missed:
            completion_us = self.completions[0][0] if self.completions else NEVER
            if completion_us <= next_arrival and completion_us <= self.wake_us:
                if completion_us == NEVER:
                    return self.counts
                self._complete()
            elif next_arrival <= self.wake_us:
                self.now_us = next_arrival
                self.arrived_us[request_id] = next_arrival
                self.counts.offered += 1
                self._handle(RequestArrived(request_id, next_arrival + self.slo_us))
                request_id += 1
                next_arrival = next(arrivals, NEVER)
                if self.progress is not None and request_id % PROGRESS_EVERY == 0:
                    self.progress(self.now_us)
            else:
                self.now_us = self.wake_us
                self.wake_us = NEVER
                self._handle(TimerFired())
        return self.counts

    def _complete(self) -> None:
        entry = heappop(self.completions)
        self.now_us = entry[0]
        batch_id = entry[2]
        stage = entry[4]
        dispatch = self.under_way[batch_id]
        if stage == dispatch.ticket.first_stage + len(dispatch.ticket.hops) - 1:
            del self.under_way[batch_id]
            self._finish(dispatch, stage)
        self._handle(StageCompleted(batch_id, entry[3], stage, self.now_us))

    def _finish(self, dispatch: Dispatch, stage: int) -> None:
        """Count the frames of a batch whose last stage ended."""
        if stage < self.counts.last_stage[dispatch.ticket.pipeline]:
            return
        for request_id in dispatch.request_ids:
            latency_us = self.now_us - self.arrived_us.pop(request_id)
            self.missed += int(latency_us > self.slo_us)
            self.counts.answered(latency_us)

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
                del self.arrived_us[action.request_id]
                self.missed += 1
                counts.dropped(action.reason)
            elif isinstance(action, WakeAt):
                self.wake_us = action.time_us

    def _dispatch(self, dispatch: Dispatch) -> None:
        ticket = dispatch.ticket
        self.under_way[ticket.batch_id] = dispatch
        stage = ticket.first_stage
        if self.execution is None:
            for hop in ticket.hops:
                self._expect(hop.end_us, ticket.batch_id, ticket.attempt, stage)
                self.counts.busy(ticket.pipeline, stage, hop.end_us - hop.start_us)
                stage += 1
        else:
            for index, end_us in enumerate(self.execution.run(ticket, self.now_us)):
                self._expect(end_us, ticket.batch_id, ticket.attempt, stage)
                hop = ticket.hops[index]
                self.counts.busy(ticket.pipeline, stage, hop.end_us - hop.start_us)
                stage += 1
        self.counts.sent(ticket.pipeline, len(dispatch.request_ids))

    def _expect(self, end_us: int, batch_id: int, attempt: int, stage: int) -> None:
        self.serial += 1
        heappush(self.completions, (end_us, self.serial, batch_id, attempt, stage))
