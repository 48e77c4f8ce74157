"""From what dispatchers count to what planning needs: rates, their mix, and how far stages are off their
profile.

Rules
- Rates are over a window, so one burst is no trend. What came before the mix changed is no part of it: the
  window begins anew once the new mix has been seen for `settled_s`.
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
    settled_s: float = 2.0
    deviations: float = 4.0
    least_move: float = 0.05
    dispersion: float = 1.0
    margin: float = 0.15
    drift_s: float = 10.0


class Rates:
    """Frames/s by model over the last `window_s`, or since the mix changed, from counters that only grow."""

    def __init__(self, settings: MeasureSettings) -> None:
        self._settings = settings
        self._looks: deque[tuple[float, Mapping[str, float]]] = deque()
        self.is_full = False
        """Whether looks have covered a window since a dispatcher was started."""

    def saw(self, counted: Mapping[str, float], now_s: float) -> None:
        """Frames that each model has got since its dispatcher started. One that counts less than before was
        started again: what was seen is forgotten. A look that misses a model says nothing of the mix.
        """
        looks = self._looks
        before = looks[-1][1] if looks else {}
        if before.keys() - counted.keys():
            return
        if any(counted[model] < count for model, count in before.items()):
            looks.clear()
            self.is_full = False
        looks.append((now_s, dict(counted)))
        while len(looks) > 2 and looks[1][0] <= now_s - self._settings.window_s:
            looks.popleft()
        self.is_full |= self.seconds >= self._settings.window_s
        for _ in range(self._change()):
            looks.popleft()

    @property
    def seconds(self) -> float:
        """Covered by the looks that are there."""
        return self._looks[-1][0] - self._looks[0][0] if self._looks else 0.0

    def now_rps(self) -> dict[str, float]:
        """Frames/s by model; nothing before two looks."""
        return _rps(self._looks[0], self._looks[-1]) if self.seconds > 0 else {}

    def _change(self) -> int:
        """The last look before which another mix came than after it; 0 where there is none."""
        looks = list(self._looks)
        settled_s = looks[-1][0] - self._settings.settled_s
        for index in range(len(looks) - 2, 0, -1):
            then_s = looks[index][0] - looks[0][0]
            if looks[index][0] > settled_s or then_s <= 0:
                continue
            now_s = looks[-1][0] - looks[index][0]
            # Both are counts of a short time: what chance explains is that of the two together.
            both_s = 1 / (1 / now_s + 1 / then_s)
            after, before = _rps(looks[index], looks[-1]), _rps(looks[0], looks[index])
            if has_moved(after, before, both_s, self._settings):
                return index
        return 0


def _rps(
    first: tuple[float, Mapping[str, float]], last: tuple[float, Mapping[str, float]]
) -> dict[str, float]:
    seconds = last[0] - first[0]
    return {model: (count - first[1].get(model, 0.0)) / seconds for model, count in last[1].items()}


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
