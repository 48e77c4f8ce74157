"""How much of what comes is given up because more comes than can be served.

Where frames are given up as soon as they cannot be served in time, fewer are open than the plan serves within
an SLO, however many come. So a caller who keeps as many open as one address may have would never crowd.

Rule: counted in stretches of STRETCH_US. It is too much as soon as SHARE of what has come in one, and LEAST
at least, was given up. Who serves 99 % gives up a fifth of that.
"""

from __future__ import annotations

from typing import Final

STRETCH_US: Final = 500_000
SHARE: Final = 0.05
LEAST: Final = 4


class GivenUp:
    """Used by one thread at a time. Times in us on one clock."""

    __slots__ = ("_began_us", "_came", "_lost")

    def __init__(self) -> None:
        self._began_us = 0
        self._came = 0
        self._lost = 0

    def came(self, now_us: int) -> None:
        """One frame, which has found room."""
        self._look(now_us)
        self._came += 1

    def lost(self, now_us: int) -> bool:
        """One was given up; whether that is too much."""
        self._look(now_us)
        self._lost += 1
        return self._lost >= LEAST and self._lost > SHARE * self._came

    def _look(self, now_us: int) -> None:
        if now_us - self._began_us >= STRETCH_US:
            self._began_us = now_us
            self._came = self._lost = 0
