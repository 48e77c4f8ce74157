"""Where the time of a model's SLO goes: waiting for a batch, then stage by stage.

A stage's time runs from the end of the stage before it, or from the sending of the batch, to the end of its
compute, so it holds the transfer into it and the wait for its worker. Sums and counts only: what was used is
their quotient over any window. Sums are in SLOs, each share one of the SLO that was served then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from python_backend.dispatcher.metrics.counts import Counts

_REMEMBERED: Final = 4096
"""Batches under way; more are batches whose last notice was lost."""

Part = tuple[str, Mapping[str, str]]
"""'queue', or 'stage' with its place as labels."""


class Budget:
    """Written by one thread at a time. counts: say which SLO is served."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._since_us: dict[tuple[int, int], int] = {}
        """By (batch, attempt): when its last known stage ended."""
        self._queue = _Used()
        self._stages: dict[tuple[int, int], _Used] = {}

    def sent(self, batch: int, attempt: int, now_us: int, arrived_us: list[int]) -> None:
        """A batch went out; `arrived_us`: of its frames."""
        self._queue.slos += (now_us * len(arrived_us) - sum(arrived_us)) / self._counts.slo_us
        self._queue.number += len(arrived_us)
        self._since_us[batch, attempt] = now_us
        if len(self._since_us) > _REMEMBERED:
            del self._since_us[next(iter(self._since_us))]

    def ended(self, batch: int, attempt: int, place: tuple[int, int], ended_us: int, last: bool) -> None:
        """The stage at `place` (pipeline, stage) ended a batch; `last`: of its pipeline."""
        since_us = self._since_us.pop((batch, attempt), None)
        if since_us is None:
            return
        if not last:
            self._since_us[batch, attempt] = ended_us
        used = self._stages.setdefault(place, _Used())
        used.slos += max(0, ended_us - since_us) / self._counts.slo_us
        used.number += 1

    def totals(self) -> Iterator[tuple[Part, tuple[float, int]]]:
        """Per part: SLOs, and of how many frames (queue) or batches (stages)."""
        yield ("queue", {}), (self._queue.slos, self._queue.number)
        for (pipeline, stage), used in sorted(self._stages.items(), key=lambda one: one[0]):
            yield ("stage", {"pipeline": str(pipeline), "stage": str(stage)}), (used.slos, used.number)


@dataclass
class _Used:
    slos: float = 0.0
    number: int = 0
