"""How much later than predicted answers go out: what a dispatcher must take off every deadline.

A prediction ends with the last stage's compute. After it come the way back up the chain and the answer;
before it, hops may have been slower than reserved. The estimate is a quantile of what was seen lately, so
that one stall does not rule out every frame.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import Final

_WINDOW: Final = 512
_QUANTILE: Final = 0.99
_SPARE_SHARE: Final = 0.01
_LARGEST_SHARE: Final = 0.25
_FIRST_SHARE: Final = 0.05
_FIRST_US: Final = 5_000


class Lateness:
    """A running quantile of the lateness of answers. Not thread-safe."""

    def __init__(self, slo_us: int) -> None:
        self._largest_us = self._spare_us = 0
        self._allowance_us = min(int(slo_us * _FIRST_SHARE), _FIRST_US)
        self.bound_by(slo_us)
        self._seen: deque[int] = deque()
        self._sorted: list[int] = []

    def bound_by(self, slo_us: int) -> None:
        """The SLO is this one from now on."""
        self._largest_us = int(slo_us * _LARGEST_SHARE)
        self._spare_us = int(slo_us * _SPARE_SHARE)
        self._allowance_us = min(self._allowance_us, self._largest_us)

    @property
    def allowance_us(self) -> int:
        """Time to leave between a predicted end and a deadline; at most a quarter of the SLO."""
        return self._allowance_us

    def saw(self, late_us: int) -> None:
        """An answer went out this much after its predicted end; negative when earlier."""
        if len(self._seen) == _WINDOW:
            del self._sorted[bisect_left(self._sorted, self._seen.popleft())]
        self._seen.append(late_us)
        insort(self._sorted, late_us)
        if len(self._sorted) * 16 >= _WINDOW:
            quantile_us = self._sorted[int(_QUANTILE * (len(self._sorted) - 1))]
            self._allowance_us = max(0, min(quantile_us + self._spare_us, self._largest_us))
