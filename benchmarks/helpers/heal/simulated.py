"""What tables serve of given arrivals in simulation; and how often a loss would be healed late if healing
were as fast as it can be: near capacity a second may be short by chance, and then frames that queued up
count twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from planner.serving import ServedModel
from python_backend.scheduler.actions import Action, Dispatch, Drop
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event
from python_backend.scheduler.timelines import NEVER
from python_backend.simulator.driver import SimulatedDriver

Attained = Callable[[float, float], float]
"""The share in time of the frames that are due between two times in seconds; 1 where there are none."""
_OF_POSSIBLE = 0.97
"""A second is good that attains so much."""
_HEALED_WITHIN_S = 5.0
AFTER_S = 16.0
"""Of a loss, that are looked at."""
_SERVES_AFTER_S = 1.6
"""The soonest: by default 1.5 s of silence make a server lost. A tenth for loading and handing over."""
_WINDOW_S, _STEP_S = 1.0, 0.25


@dataclass(frozen=True)
class Simulated:
    """Numbers of frames as they came: dropped, and neither served nor dropped when it ended."""

    dropped: frozenset[int]
    waiting: tuple[int, ...]


def simulate(
    served: ServedModel | None,
    times_us: Sequence[int],
    waited_us: Sequence[int] = (),
    from_us: int = 0,
    until_us: int = NEVER,
) -> Simulated:
    """A scheduler that has all workers of its table from the start, with the table's latencies: what is not
    dropped is in time. waited_us: when frames were sent that come first, at `from_us`. A model without
    workers drops all.
    """
    if served is None:
        return Simulated(frozenset(range(len(waited_us) + len(times_us))), ())
    dropped: set[int] = set()
    sent: set[int] = set()

    def observe(_event: Event, _now_us: int, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Drop):
                dropped.add(action.request_id)
            elif isinstance(action, Dispatch):
                sent.update(action.request_ids)

    driver = SimulatedDriver(served, SchedulerCore(served, "adaptive"), observe=observe)
    driver.begin(iter(times_us))
    for sent_us in waited_us:
        driver.arrive(from_us, sent_us)
    while driver.next_us() < until_us and driver.step():
        pass
    came = range(driver.counts.offered)
    return Simulated(frozenset(dropped), tuple(n for n in came if n not in dropped and n not in sent))


def missed_at_best(
    left: Mapping[str, ServedModel],
    then: Mapping[str, ServedModel],
    arrivals: Mapping[str, Sequence[int]],
    moments_s: Sequence[float],
) -> float:
    """Of losses at these moments, the share with a second that is not good later than _HEALED_WITHIN_S, if
    what is `left` serves until _SERVES_AFTER_S, and `then` the new tables with what waits. arrivals: by
    model, in microseconds.
    """
    missed = 0
    for lost_s in moments_s:
        frames = [
            frame
            for model, times_us in arrivals.items()
            for frame in _around_loss(left.get(model), then.get(model), times_us, lost_s)
        ]
        end_s = lost_s + AFTER_S
        good_s = first_good(attained_of(frames), lost_s, lost_s + _SERVES_AFTER_S, end_s)
        missed += good_s is None or good_s > lost_s + _HEALED_WITHIN_S
    return missed / len(moments_s)


def _around_loss(
    left: ServedModel | None, then: ServedModel | None, times_us: Sequence[int], lost_s: float
) -> list[tuple[float, bool]]:
    """One model's frames: when they came, and whether they are in time."""
    marks_s = (lost_s, lost_s + _SERVES_AFTER_S, lost_s + AFTER_S)
    begin, hand_over, end = (bisect_left(times_us, int(mark_s * 1e6)) for mark_s in marks_s)
    from_us = int(marks_s[1] * 1e6)
    before, after = times_us[begin:hand_over], times_us[hand_over:end]
    first = simulate(left, before, until_us=from_us)
    waited_us = [before[number] for number in first.waiting]
    second = simulate(then, after, waited_us, from_us)
    came_us = [*waited_us, *after]
    waiting = set(first.waiting)
    return [
        *((at / 1e6, n not in first.dropped) for n, at in enumerate(before) if n not in waiting),
        *((at / 1e6, n not in second.dropped) for n, at in enumerate(came_us)),
    ]


def attained_of(frames: Sequence[tuple[float, bool]]) -> Attained:
    """Of frames by when they were due, in seconds, and whether they were in time."""
    ordered = sorted(frames)
    due_s = [at_s for at_s, _ in ordered]
    good = [0, *accumulate(in_time for _, in_time in ordered)]

    def attained(from_s: float, to_s: float) -> float:
        first, end = bisect_left(due_s, from_s), bisect_left(due_s, to_s)
        return (good[end] - good[first]) / (end - first) if end > first else 1.0

    return attained


def first_good(attained: Attained, lost_s: float, from_s: float, to_s: float) -> float | None:
    """From when on, after `from_s`, every second is good; None where that is never before `to_s`."""
    last_s = to_s - _WINDOW_S
    found = from_s
    for step in range(max(0, int((last_s - lost_s) / _STEP_S))):
        at_s = lost_s + step * _STEP_S
        if at_s + _WINDOW_S > from_s and attained(at_s, at_s + _WINDOW_S) < _OF_POSSIBLE:
            found = max(found, at_s + _STEP_S)
    return found if found < last_s else None
