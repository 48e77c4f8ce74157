"""How much of what comes is shed for overload, and how many frames must wait while it lasts.

Known from the core's own counts and times alone, over the last one to two SLOs.
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


class Shedding:
    """Counts of one core."""

    __slots__ = ("came", "came_before", "shed", "shed_before", "since_us")

    def __init__(self) -> None:
        self.since_us: int = 0
        self.came: int = 0
        self.shed: int = 0
        """Both as they were at `since_us`."""
        self.came_before: int = 0
        self.shed_before: int = 0
        """As they were an SLO before that, or more."""

    def count(self, came: int, shed: int, now_us: int, slo_us: int) -> None:
        """So many frames have come so far, and were shed for overload."""
        past_us = now_us - self.since_us
        if past_us < slo_us:
            return
        lately = past_us < 2 * slo_us
        self.came_before = self.came if lately else came
        self.shed_before = self.shed if lately else shed
        self.came = came
        self.shed = shed
        self.since_us = now_us

    def spare_frames(self, came: int, shed: int) -> int:
        """How many frames must wait, full batches aside, so that workers do not run out of them; NEVER while
        none is shed."""
        shed -= self.shed_before
        if shed == 0:
            return NEVER
        return SPARE_FRAMES * max(0, came - self.came_before - shed) // shed
