"""One model's core on virtual time, for frames that come in bunches and with deadlines of their own.

Rules: at equal times completions go first, then arrivals, all of one time together as a live dispatcher
offers them, then the core's timer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from planner.serving import ServedModel
from python_backend.scheduler.actions import Action, Dispatch, Drop, DropReason, WakeAt
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event, RequestArrived, StageCompleted, TimerFired
from python_backend.scheduler.ingress import BatchLoad, Entry
from python_backend.scheduler.links import Links
from python_backend.scheduler.timelines import NEVER
from python_backend.simulator.capacity import Workload

NEVER_ANSWERED = -1
SUPERSEDED = -2
"""A newer frame of its stream came while it waited."""
Times = npt.NDArray[np.int64]


class TooMuchMissing(Exception):
    """More frames lack something than may."""


class Missing:
    """Which of a cascade's own frames lack something."""

    def __init__(self, frames: int, most: int) -> None:
        self._lacks = bytearray(frames)
        self._left = most

    def add(self, frame: int) -> None:
        """It lacks something, perhaps not for the first time. Raises TooMuchMissing."""
        if not self._lacks[frame]:
            self._lacks[frame] = 1
            self._left -= 1
            if self._left < 0:
                raise TooMuchMissing


@dataclass(frozen=True)
class MissingOf:
    """What of a member's frames is told to `missing` as soon as it is known: those that are dropped, and
    those answered after `until_us`. origin: of which of the cascade's frames each comes.
    """

    missing: Missing
    origin: Sequence[int]
    until_us: Sequence[int]


def serve_bunches(
    served: ServedModel,
    come_us: Times,
    deadline_us: Times,
    workload: Workload,
    policy: str = "adaptive",
    places: Iterator[tuple[str, int]] | None = None,
    watch: MissingOf | None = None,
) -> Times:
    """When each frame was answered; NEVER_ANSWERED or SUPERSEDED if it was dropped. come_us: rising.

    places: of each frame in turn, its stream and its place there; None: frames name no stream. Raises
    TooMuchMissing where `watch` says so.
    """
    come, due = come_us.tolist(), deadline_us.tolist()
    nowhere = itertools.repeat(("", -1))
    run = _Run(served, workload, policy, len(come), nowhere if places is None else places, watch)
    first = 0
    while first < len(come):
        now_us, last = come[first], first
        while last < len(come) and come[last] == now_us:
            last += 1
        run.go_on(now_us)
        run.arrive(now_us, [(number, due[number]) for number in range(first, last)])
        first = last
    run.go_on(NEVER)
    return np.array(run.answered_us, dtype=np.int64)


class _Run:
    def __init__(
        self,
        served: ServedModel,
        workload: Workload,
        policy: str,
        frames: int,
        places: Iterator[tuple[str, int]],
        watch: MissingOf | None,
    ) -> None:
        self._places = places
        self._watch = watch
        self.answered_us = [NEVER_ANSWERED] * frames
        self._core = SchedulerCore(served, policy)
        self._execution = workload.execution(served, workload.seeds[0])
        self._entry = None if served.entry is None else Entry(served.entry, Links())
        self._last_stage = [len(pipeline.stages) - 1 for pipeline in served.pipelines]
        self._completions: list[tuple[int, int, StageCompleted]] = []
        self._wake_us = NEVER
        self._serial = 0

    def arrive(self, now_us: int, frames: list[tuple[int, int]]) -> None:
        """(number, deadline) of frames that come now."""
        size, pixels = 0, 0
        if self._entry is not None:
            size, pixels = self._entry.planned_bytes, self._entry.planned_pixels
        offers = [
            RequestArrived(number, deadline_us, 0, size, pixels, *next(self._places))
            for number, deadline_us in frames
        ]
        self._act(self._core.handle_arrivals(offers, now_us), now_us)

    def go_on(self, until_us: int) -> None:
        """All that happens before the next arrivals."""
        while True:
            completion_us = self._completions[0][0] if self._completions else NEVER
            next_us = min(completion_us, self._wake_us)
            # A timer of the arrivals' own time waits for them.
            if next_us == NEVER or next_us > until_us or (next_us == until_us and completion_us > until_us):
                return
            if completion_us <= self._wake_us:
                self._handle(heappop(self._completions)[2], completion_us)
            else:
                self._wake_us = NEVER
                self._handle(TimerFired(), next_us)

    def _handle(self, event: Event, now_us: int) -> None:
        self._act(self._core.handle(event, now_us), now_us)

    def _act(self, actions: list[Action], now_us: int) -> None:
        for action in actions:
            if isinstance(action, Dispatch):
                self._dispatch(action, now_us)
            elif isinstance(action, WakeAt):
                self._wake_us = action.time_us
            else:
                assert isinstance(action, Drop)
                if action.reason is DropReason.SUPERSEDED:
                    self.answered_us[action.request_id] = SUPERSEDED
                elif self._watch is not None:
                    self._watch.missing.add(self._watch.origin[action.request_id])

    def _dispatch(self, dispatch: Dispatch, now_us: int) -> None:
        ticket = dispatch.ticket
        load = self._load(len(dispatch.request_ids))
        ends = [hop.end_us for hop in ticket.hops]
        answered_us = ends[-1] if load is None else ticket.answer_us
        if self._execution is not None:
            ends = list(self._execution.run(ticket, now_us, load))
            answered_us = ends[-1] if load is None else self._execution.answered_us
        for index, end_us in enumerate(ends):
            stage = ticket.first_stage + index
            self._serial += 1
            completed = StageCompleted(ticket.batch_id, ticket.attempt, stage, end_us)
            heappush(self._completions, (end_us, self._serial, completed))
        if ticket.first_stage + len(ends) - 1 == self._last_stage[ticket.pipeline]:
            self._answered(dispatch.request_ids, answered_us)

    def _answered(self, numbers: Sequence[int], at_us: int) -> None:
        for number in numbers:
            self.answered_us[number] = at_us
        if self._watch is not None:
            for number in numbers:
                if at_us > self._watch.until_us[number]:
                    self._watch.missing.add(self._watch.origin[number])

    def _load(self, frames: int) -> BatchLoad | None:
        """What a batch of planned frames brings."""
        entry = self._entry
        if entry is None:
            return None
        frame_us = entry.frame_us(entry.planned_bytes, entry.planned_pixels)
        return BatchLoad(frames * entry.planned_bytes, [frame_us] * frames)
