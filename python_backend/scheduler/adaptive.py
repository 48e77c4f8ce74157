"""The default policy: bind late, choose pipelines by what the deadline still allows, drop only what nothing
can save.

- A batch is sent when a worker of a first stage is free and it need not wait for the later ones, not when its
  frames arrive. Where frames have a way to that worker, and are prepared there, it is sent so much earlier
  that it is ready when the worker becomes free: one batch ahead, and more only where way and preparing take
  longer than a batch computes. One of other models' transfers may be under way on the same uplink just then,
  so batches are sent earlier by the longest of these; or workers would wait for it each time.
- Each free pipeline takes the most urgent frames that it can still finish in time; more urgent ones are
  left to faster pipelines.
- A batch smaller than planned is held back only while no frame in it is in danger.
- A frame is dropped as soon as no pipeline can meet its deadline any more, and not before, unless there is
  overload. Then all that are served would end at their deadlines, and be late by whatever no prediction knows
  of: callers, their networks, the server's doors. As many are served where all wait less. So once frames
  have been shed for overload for a while, no more wait than keep the workers busy (`shedding.py`): few where
  much is shed, any number where little is. What is more is dropped, the most urgent first, once it has waited
  longer than it still could. Each priority is seen with those above it: what is shed below costs it nothing.
"""

from __future__ import annotations

from typing import Final

from python_backend.scheduler.actions import DropReason
from python_backend.scheduler.batches import Request, Reservation
from python_backend.scheduler.ingress import load_of
from python_backend.scheduler.links import AS_PLANNED
from python_backend.scheduler.policy import Policy, shed_reason
from python_backend.scheduler.state import State
from python_backend.scheduler.streams.book import Streams
from python_backend.scheduler.timelines import NEVER, PipelineTimelines
from python_backend.scheduler.waiting import PriorityLevel

HOLD_SHARE: Final = 25
"""A batch may wait between its stages for one in so many parts of its way, and for as long as predictions are
wrong (the guard); else it is sent later."""
PASSED_OVER: Final = 3
"""Frames that are looked past for one batch because they are larger than the mean."""
IDLE_SHARE: Final = 4
"""With more than one in so many workers of every stage idle, batches are sent as they are."""


class AdaptivePolicy(Policy):
    """See the module."""

    counts_ends: bool = True

    def __init__(self) -> None:
        self.wake_us: int = NEVER

    def schedule(self, state: State, now_us: int) -> int:
        """Serve what can be served, drop what nothing can serve, and say when that changes."""
        self.wake_us = NEVER
        while state.waiting.count > 0 and self._serve_one(state, now_us):
            self.wake_us = NEVER
        if state.waiting.count > 0:
            self._drop_hopeless(state, now_us)
        return self.wake_us if state.waiting.count > 0 else NEVER

    def _serve_one(self, state: State, now_us: int) -> bool:
        """Send one batch on some free pipeline."""
        for pipeline in state.pipelines:
            pool = pipeline.pools[0]
            worker = pool.earliest()
            while worker >= 0 and pool.free_us[worker] <= now_us and stalls(pool.outstanding[worker], now_us):
                pool.set_usable(worker, False, True)
                worker = pool.earliest()
            if worker < 0:
                continue
            due_us = pool.ready_us(worker)
            ends = pipeline.ends
            if ends is not None and state.entry is not None:
                due_us -= ends.lead_us(state.entry, pipeline.batch_size, pool.pace(state.entry))
                due_us -= pipeline.path_us[0] // HOLD_SHARE + state.guard_us
                due_us -= state.links.others_us[state.entry.uplink]
            if due_us > now_us:
                self.wake_us = min(self.wake_us, due_us)
            elif self._serve_on(state, pipeline, now_us):
                return True
        return False

    def _serve_on(self, state: State, pipeline: PipelineTimelines, now_us: int) -> bool:
        """Send the fullest batch that can still end in time, or wait for a fuller one while that is safe."""
        size = pipeline.batch_size
        finish_us = NEVER
        pace = AS_PLANNED if state.entry is None else pipeline.pools[0].pace(state.entry)
        while size > 0:
            longer_us = finish_us
            finish_us = state.finish_us(pipeline, size, now_us)
            if finish_us < 0:
                return False
            early_us = finish_us - now_us - pipeline.way_us(size, state.entry, pace)
            early_us -= pipeline.path_us[0] // HOLD_SHARE + state.guard_us
            if pipeline.ends is not None and state.entry is not None:
                early_us -= state.links.others_us[state.entry.uplink]
            if early_us > 0:
                self.wake_us = min(self.wake_us, now_us + early_us)
                return False
            for level in state.waiting.levels:
                index = level.first_from(finish_us + state.guard_us)
                if len(level.frames) - index >= size:
                    if longer_us != NEVER and not plenty_idle(pipeline):
                        urgent_us = level.frames[index].deadline_us
                        if state.streams is not None:
                            urgent_us = min(urgent_us, inherited_us(state.streams, level))
                        spare_us = urgent_us - state.guard_us - longer_us
                        if spare_us > 0:
                            self.wake_us = min(self.wake_us, now_us + spare_us)
                            return False
                    if state.streams is not None and state.streams.turns is not None:
                        if self._send_in_turn(state, pipeline, level, index, size, now_us):
                            return True
                    elif pipeline.ends is None:
                        return self._send(state, pipeline, level, index, size, now_us)
                    elif self._send_frames(state, pipeline, level, index, size, now_us):
                        return True
            size -= 1
        return False

    def _send(
        self,
        state: State,
        pipeline: PipelineTimelines,
        level: PriorityLevel,
        index: int,
        size: int,
        now_us: int,
    ) -> bool:
        quote = state.quote(pipeline, size, now_us)
        if quote is None:
            return False
        state.commit(quote, state.waiting.take(level, index, size))
        return True

    def _send_frames(
        self,
        state: State,
        pipeline: PipelineTimelines,
        level: PriorityLevel,
        index: int,
        size: int,
        now_us: int,
    ) -> bool:
        """The same for frames whose own bytes and pixels count: those that they make too late are passed
        over, a few at most."""
        for first in range(index, min(index + PASSED_OVER, len(level.frames) - size) + 1):
            chosen = level.frames[first : first + size]
            quote = state.quote(pipeline, size, now_us, load_of(chosen))
            if quote is None:
                return False
            if quote.finish_us + state.guard_us <= chosen[0].deadline_us:
                state.commit(quote, state.waiting.take(level, first, size))
                return True
        return False

    def _send_in_turn(
        self,
        state: State,
        pipeline: PipelineTimelines,
        level: PriorityLevel,
        index: int,
        size: int,
        now_us: int,
    ) -> bool:
        """The same where streams take turns, whose frames can be anywhere from `index` on."""
        assert state.streams is not None
        assert state.streams.turns is not None
        turns = state.streams.turns
        least_us = level.frames[index].deadline_us
        for _ in range(PASSED_OVER + 1):
            chosen = turns.pick(level.priority, size, least_us)
            quote = None
            if len(chosen) == size:
                load = None if pipeline.ends is None else load_of(chosen)
                quote = state.quote(pipeline, size, now_us, load)
            if quote is None:
                turns.put_back(chosen)
                return False
            if load is None or quote.finish_us + state.guard_us <= earliest_us(chosen):
                for request in chosen:
                    state.waiting.remove(request)
                state.commit(quote, chosen)
                return True
            turns.put_back(chosen)
            least_us = quote.finish_us + state.guard_us
        return False

    def _drop_hopeless(self, state: State, now_us: int) -> None:
        """Drop every frame that the best pipeline, as reserved now, would finish too late."""
        best_us = NEVER
        full = 0
        for pipeline in state.pipelines:
            finish_us = state.finish_us(pipeline, 1, now_us)
            if finish_us >= 0:
                best_us = min(best_us, finish_us)
                full += pipeline.batch_size
        best_us += state.guard_us
        for level in state.waiting.levels:
            hopeless = level.first_from(best_us) - level.head
            if hopeless > 0:
                self._shed(state, level, hopeless, now_us)
        self._drop_early(state, full, best_us, now_us)

    def _drop_early(self, state: State, full: int, best_us: int, now_us: int) -> None:
        """Of each priority, drop frames that more urgent ones have kept waiting for longer than they could
        still wait, until no more wait than are to, with those of higher priorities."""
        came = lost = waiting = 0
        for level in state.waiting.levels:
            came += level.came
            lost += level.shed
            waiting += level.size()
            level.shedding.count(came, lost, now_us, state.slo_us)
            most = min(waiting - full - level.shedding.spare_frames(), level.size())
            early = 0
            while early < most:
                request = level.frames[level.head + early]
                waited_us = now_us - request.arrived_us
                # What was tried before has waited for that, and is served in what is left.
                if request.attempts > 0 or request.deadline_us - best_us >= waited_us:
                    break
                early += 1
            if early > 0:
                self._shed(state, level, early, now_us)
                lost += early
                waiting -= early

    def _shed(self, state: State, level: PriorityLevel, count: int, now_us: int) -> None:
        """Drop so many frames of one priority, the most urgent ones."""
        for request in state.waiting.take(level, level.head, count):
            reason = shed_reason(state, request, now_us)
            level.shed += int(reason is DropReason.OVERLOAD)
            state.drop(request, reason)


def inherited_us(streams: Streams, level: PriorityLevel) -> int:
    """By when a frame of the stream whose turn it is would have been sent without newer ones; NEVER where all
    are kept.

    A newer frame that took an older one's place is in no less of a hurry than that was, or a fast camera's
    frame would be held back for ever.
    """
    if streams.turns is None or not streams.newest:
        return NEVER
    return streams.turns.first_rank_us(level.priority)


def earliest_us(requests: list[Request]) -> int:
    """The earliest of their deadlines."""
    deadline_us = NEVER
    for request in requests:
        deadline_us = min(deadline_us, request.deadline_us)
    return deadline_us


def plenty_idle(pipeline: PipelineTimelines) -> bool:
    """Whether so many workers of every stage are idle that waiting for a fuller batch gains nothing."""
    for pool in pipeline.pools:  # noqa: SIM110 (a loop compiles to faster code)
        if (pool.usable - pool.busy) * IDLE_SHARE <= pool.usable:
            return False
    return True


def stalls(outstanding: list[Reservation], now_us: int) -> bool:
    """Whether a worker has two batches overdue: it is given no more until it shows a sign of life."""
    return len(outstanding) >= 2 and outstanding[1].end_us <= now_us
