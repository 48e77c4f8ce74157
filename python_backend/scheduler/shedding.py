"""How much of what comes is shed for overload, and how many frames must wait while it lasts.

Known from counts and times alone, of a priority and those above it (waiting.PriorityLevel). Of the last
LASTING stretches of an SLO each, the one counts in which least was shed, so bursts that are over sooner
change nothing: what waits then is served after them.
"""

from __future__ import annotations

from typing import Final

from python_backend.scheduler.timelines import NEVER

SPARE_FRAMES: Final = 4
"""Frames that wait beside full batches where half of what comes is shed; the fewer are shed, the more.

Where frames come by chance at r times the rate that they are served at, a queue of n runs dry about
exp(-2 n (r - 1)) of the time. With a share s of them shed, r - 1 is s / (1 - s); so with n = 4 (1 - s) / s
that is 3 in 10,000.
"""
LASTING: Final = 3


class Shedding:
    """Of one priority and all above it."""

    __slots__ = ("came", "shed", "since_us", "spare")

    def __init__(self) -> None:
        self.since_us: int = 0
        self.came: int = 0
        self.shed: int = 0
        """Both as they were at `since_us`."""
        self.spare: list[int] = []
        """Of each stretch, the latest last, how many frames must wait where as much is shed."""

    def count(self, came: int, shed: int, now_us: int, slo_us: int) -> None:
        """So many frames have come so far, and were shed for overload."""
        past_us = now_us - self.since_us
        if past_us < slo_us:
            return
        if past_us >= 2 * slo_us:  # nothing was shed for as long
            self.spare.clear()
        shed_here = shed - self.shed
        served = max(0, came - self.came - shed_here)
        self.spare.append(SPARE_FRAMES * served // shed_here if shed_here > 0 else NEVER)
        if len(self.spare) > LASTING:
            del self.spare[0]
        self.came = came
        self.shed = shed
        self.since_us = now_us

    def spare_frames(self) -> int:
        """How many frames must wait, full batches aside, so that workers do not run out of them; NEVER while
        overload has not lasted."""
        return max(self.spare) if len(self.spare) == LASTING else NEVER
