"""How long batches really take, against the profile that the plan was made with.

Each stage keeps what its workers last reported, as the ratio of measured to profiled time for that batch
size. A plan made for other speeds should not go unnoticed: a lasting deviation is logged, and exported as a
metric.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from planner.serving import ServedModel

_WINDOW: Final = 256
_ENOUGH: Final = 64
_TOLERATED: Final = 0.2
_REPEAT_US: Final = 60_000_000


class Drift:
    """Ratios by (pipeline, stage). Written by one thread at a time."""

    def __init__(self, served: ServedModel, log: Callable[[str], None]) -> None:
        self._model = served.model
        self._stages = {
            (index, position): stage
            for index, pipeline in enumerate(served.pipelines)
            for position, stage in enumerate(pipeline.stages)
        }
        self._ratios: dict[tuple[int, int], deque[float]] = {
            key: deque(maxlen=_WINDOW) for key in self._stages
        }
        self._off = dict.fromkeys(self._stages, 0)
        """How many of the ratios are beyond what is tolerated."""
        self._warned_us = dict.fromkeys(self._stages, -_REPEAT_US)
        self._log = log

    def saw(self, pipeline: int, stage: int, batch: int, busy_us: int, now_us: int) -> None:
        """A batch kept its worker for `busy_us`."""
        key = (pipeline, stage)
        profiled_us = self._stages[key].latency_us[batch - 1]
        if profiled_us <= 0:
            return
        ratios = self._ratios[key]
        if len(ratios) == _WINDOW:
            self._off[key] -= int(_is_off(ratios[0]))
        ratio = busy_us / profiled_us
        ratios.append(ratio)
        self._off[key] += int(_is_off(ratio))
        # Only where most are off their median can be: it is asked for each batch, and sorting takes longer.
        if 2 * self._off[key] >= len(ratios) >= _ENOUGH and now_us - self._warned_us[key] > _REPEAT_US:
            self._warn_if_off(key, now_us)

    def gpu(self, pipeline: int, stage: int) -> str:
        """The class of GPU that a stage runs on."""
        return self._stages[pipeline, stage].gpu

    def quantiles(self, quantile: float) -> Mapping[tuple[int, int], float]:
        """Of measured over profiled latency, per stage that has reported."""
        return {key: _quantile(list(ratios), quantile) for key, ratios in self._ratios.items() if ratios}

    def _warn_if_off(self, key: tuple[int, int], now_us: int) -> None:
        median = _quantile(list(self._ratios[key]), 0.5)
        if _is_off(median):
            self._warned_us[key] = now_us
            pipeline, stage = key
            self._log(
                f"{self._model}: stage {stage} of pipeline {pipeline} takes {median:.2f} times its profiled "
                "latency (median of the last batches): profile and plan again"
            )


def _is_off(ratio: float) -> bool:
    return abs(ratio - 1) > _TOLERATED


def _quantile(values: list[float], quantile: float) -> float:
    values.sort()
    return values[round(quantile * (len(values) - 1))]
