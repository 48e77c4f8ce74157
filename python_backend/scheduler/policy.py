"""What a scheduling policy is: a rule that looks at the state whenever something happened, and commits,
drops or waits.

A policy decides only through State.commit and State.drop, so whatever it does the invariants hold.
`schedule` returns the time at which it wants to look again although nothing happened (NEVER for not at
all).
"""

from __future__ import annotations

from python_backend.scheduler.actions import DropReason
from python_backend.scheduler.batches import Request
from python_backend.scheduler.state import State
from python_backend.scheduler.timelines import NEVER


class Policy:
    """Base of all policies. One instance serves one core."""

    counts_ends: bool = False
    """Whether it knows of the way in and out. Where it does not, its core has none."""

    def attach(self, state: State) -> None:
        """Called once, before the first event."""

    def schedule(self, state: State, now_us: int) -> int:
        """Decide everything that can be decided at `now_us`; returns when to look again."""
        raise NotImplementedError

    def forget(self, request: Request) -> bool:
        """A waiting frame was cancelled. True when the policy itself kept it, outside the core's queue."""
        del request
        return False

    def held(self) -> list[Request]:
        """Frames that wait outside the core's queue."""
        return []

    def pending(self) -> bool:
        """Whether there are any."""
        return False


def shed_reason(state: State, request: Request, now_us: int) -> DropReason:
    """Why nothing can serve it: no workers, a failed attempt, too late from the start, or queueing."""
    fastest_us = fastest_path_us(state)
    if fastest_us == NEVER:
        return DropReason.NO_WORKER
    if request.attempts > 0:
        return DropReason.FAILED
    if request.arrived_us + fastest_us > request.deadline_us:
        return DropReason.EXPIRED
    return DropReason.OVERLOAD


def fastest_path_us(state: State) -> int:
    """One frame through the fastest pipeline that has workers, all of them idle; NEVER where none has."""
    fastest_us = NEVER
    for pipeline in state.pipelines:
        if pipeline.usable():
            fastest_us = min(fastest_us, pipeline.way_us(1, state.entry))
    return fastest_us


def next_hopeless_us(state: State, now_us: int) -> int:
    """When the most urgent frame that waits will be too late even for idle workers."""
    deadline_us = NEVER
    for level in state.waiting.levels:
        if level.size() > 0:
            deadline_us = min(deadline_us, level.frames[level.head].deadline_us)
    return max(now_us + 1, deadline_us - state.guard_us - fastest_path_us(state) + 1)
