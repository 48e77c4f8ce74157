"""How much later than predicted answers go out: what a dispatcher must take off every deadline.

A prediction ends with the last stage's compute. After it come the way back up the chain and the answer;
before it, hops may have been slower than reserved. The estimate is a quantile of what was seen lately, so
that one stall does not rule out every frame, and what a bad second has shown is not held against frames for
long: near capacity, time that is kept free for nothing is frames that are refused.

Rules
- Lately: in the last MEMORY_US, but at least the last _FEWEST answers, so that a few a second say something
  too; after _LONGEST_US nothing counts, for where all frames are refused no answer comes that could say more.
- Another table's predictions are others: with it all begins anew.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import Final

from python_backend.wire.clock import NEVER

MEMORY_US: Final = 5_000_000
_LONGEST_US: Final = 20_000_000
_FEWEST: Final = 32
_MOST: Final = 512
_QUANTILE: Final = 0.99
_SPARE_SHARE: Final = 0.01
_LARGEST_SHARE: Final = 0.25
_FIRST_SHARE: Final = 0.05
_FIRST_US: Final = 5_000


class Lateness:
    """A running quantile of the lateness of answers. Not thread-safe. Times in microseconds."""

    def __init__(self, slo_us: int) -> None:
        self._seen: deque[tuple[int, int]] = deque()
        """(when, how late), the oldest first."""
        self._sorted: list[int] = []
        self._largest_us = self._spare_us = self._first_us = self._allowance_us = 0
        self._next_us: int = NEVER
        """When the oldest is to be forgotten, if there are enough others."""
        self.begin(slo_us)

    def begin(self, slo_us: int) -> None:
        """Another table is served from now on, with this SLO."""
        self._largest_us = int(slo_us * _LARGEST_SHARE)
        self._spare_us = int(slo_us * _SPARE_SHARE)
        self._first_us = min(int(slo_us * _FIRST_SHARE), _FIRST_US)
        self._seen.clear()
        self._sorted.clear()
        self._changed()

    def allowance_us(self, now_us: int) -> int:
        """Time to leave between a predicted end and a deadline; at most a quarter of the SLO."""
        if now_us >= self._next_us:
            self._forget(now_us)
        return self._allowance_us

    def saw(self, late_us: int, now_us: int) -> None:
        """An answer went out this much after its predicted end; negative when earlier."""
        self._seen.append((now_us, late_us))
        insort(self._sorted, late_us)
        self._forget(now_us)

    def _forget(self, now_us: int) -> None:
        seen = self._seen
        while seen and now_us >= self._due_us():
            del self._sorted[bisect_left(self._sorted, seen.popleft()[1])]
        self._changed()

    def _due_us(self) -> int:
        """When the oldest is to be forgotten, as many as there are."""
        count = len(self._seen)
        if count > _MOST:
            return 0
        return self._seen[0][0] + (MEMORY_US if count > _FEWEST else _LONGEST_US)

    def _changed(self) -> None:
        self._next_us = self._due_us() if self._seen else NEVER
        if len(self._sorted) >= _FEWEST:
            quantile_us = self._sorted[int(_QUANTILE * (len(self._sorted) - 1))]
            self._allowance_us = max(0, min(quantile_us + self._spare_us, self._largest_us))
        elif not self._seen:
            self._allowance_us = self._first_us
