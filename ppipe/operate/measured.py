"""From what dispatchers count to what planning needs: rates, their mix, and how far stages are off their
profile.

Rules
- Rates are over a window, so one burst is no trend.
- The mix has moved when a model's rate differs from its share of all by more than chance explains:
  `deviations` standard deviations of a count with the arrivals' dispersion (1 for Poisson), and by at
  least `least_move`.
- A stage has drifted when its ratio to what the plan was made with is beyond `margin` for `drift_s`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MeasureSettings:
    """See the module."""

    window_s: float = 5.0
    deviations: float = 4.0
    least_move: float = 0.05
    dispersion: float = 1.0
    margin: float = 0.15
    drift_s: float = 10.0


class Rates:
    """Frames/s by model over the last `window_s`, from counters that only grow."""

    def __init__(self, settings: MeasureSettings) -> None:
        self._window_s = settings.window_s
        self._looks: deque[tuple[float, Mapping[str, float]]] = deque()

    def saw(self, counted: Mapping[str, float], now_s: float) -> None:
        """Frames that each model has got since its dispatcher started. One that counts less than before was
        started again: what was seen is forgotten.
        """
        before = self._looks[-1][1] if self._looks else {}
        if any(counted.get(model, 0.0) < count for model, count in before.items()):
            self._looks.clear()
        self._looks.append((now_s, dict(counted)))
        while len(self._looks) > 2 and self._looks[1][0] <= now_s - self._window_s:
            self._looks.popleft()

    @property
    def seconds(self) -> float:
        """Covered by the looks that are there."""
        return self._looks[-1][0] - self._looks[0][0] if self._looks else 0.0

    @property
    def is_full(self) -> bool:
        """Whether they cover the window."""
        return self.seconds >= self._window_s

    def now_rps(self) -> dict[str, float]:
        """Frames/s by model; nothing before two looks."""
        if self.seconds <= 0:
            return {}
        first, last = self._looks[0][1], self._looks[-1][1]
        return {model: (count - first.get(model, 0.0)) / self.seconds for model, count in last.items()}


def has_moved(
    now_rps: Mapping[str, float], planned_rps: Mapping[str, float], seconds: float, settings: MeasureSettings
) -> bool:
    """Whether the mix of what comes is another one than was planned for."""
    total, planned = sum(now_rps.values()), sum(planned_rps.values())
    if total <= 0 or planned <= 0 or seconds <= 0:
        return False
    for model, planned_one in planned_rps.items():
        expected = total * planned_one / planned
        chance = settings.deviations * math.sqrt(max(expected, 1 / seconds) * settings.dispersion / seconds)
        moved = abs(now_rps.get(model, 0.0) - expected)
        if moved > chance and moved > settings.least_move * total:
            return True
    return False


class DriftWatch:
    """Factors on a profile's latencies that have held for long. Keys say what they are of."""

    def __init__(self, settings: MeasureSettings) -> None:
        self._settings = settings
        self._since_s: dict[str, float] = {}
        self._planned: dict[str, float] = {}

    def planned_with(self, factors: Mapping[str, float]) -> None:
        """The plan that is served was made with these factors; 1.0 where there is none."""
        self._planned = dict(factors)
        self._since_s.clear()

    def saw(self, factors: Mapping[str, float], now_s: float) -> dict[str, float]:
        """A look at measured over profiled latency: those that have been off for `drift_s`."""
        found = {}
        for key, factor in factors.items():
            if abs(factor / self._planned.get(key, 1.0) - 1) <= self._settings.margin:
                self._since_s.pop(key, None)
            elif now_s - self._since_s.setdefault(key, now_s) >= self._settings.drift_s:
                found[key] = factor
        for key in self._since_s.keys() - factors.keys():
            del self._since_s[key]
        return found
