"""What a simulation counts, in memory that does not grow with the number of frames.

Latencies go into a histogram of SLO / 1000 per bin, so percentiles are exact to 0.1 % of the SLO.
"""

from __future__ import annotations

from typing import Final

from planner.serving import ServedModel
from python_backend.scheduler.actions import DropReason

BINS_PER_SLO: Final = 1_000
_BINS = 4 * BINS_PER_SLO
_DECISION_BINS: Final = 400
"""Decision times by quarter microseconds up to 100 us; the last bin holds everything slower."""


class SimulatedCounts:
    """Running totals of one simulation."""

    def __init__(self, served: ServedModel) -> None:
        self.slo_us: int = served.slo_us
        self.offered: int = 0
        self.in_time: int = 0
        self.late: int = 0
        self.events: int = 0
        self.drops: dict[DropReason, int] = dict.fromkeys(DropReason, 0)
        """But for those that were superseded."""
        self.superseded: int = 0
        self.last_stage: list[int] = [len(pipeline.stages) - 1 for pipeline in served.pipelines]
        self.busy_us: list[list[int]] = [[0] * len(pipeline.stages) for pipeline in served.pipelines]
        self.batches: list[list[int]] = [
            [0] * (len(pipeline.stages[0].latency_us) + 1) for pipeline in served.pipelines
        ]
        """batches[pipeline][size]"""
        self.latency_bins: list[int] = [0] * (_BINS + 1)
        self.decision_bins: list[int] = [0] * (_DECISION_BINS + 1)
        self.decision_ns: int = 0
        self.decisions: int = 0

    def add(self, other: SimulatedCounts) -> None:
        """What another core counted of the same model; of pools and batch sizes only its own are kept."""
        self.offered += other.offered
        self.in_time += other.in_time
        self.late += other.late
        self.events += other.events
        for reason, count in other.drops.items():
            self.drops[reason] += count
        for index, count in enumerate(other.latency_bins):
            self.latency_bins[index] += count

    def answered(self, latency_us: int) -> None:
        """A frame was answered so long after it came."""
        if latency_us <= self.slo_us:
            self.in_time += 1
        else:
            self.late += 1
        self.latency_bins[min(_BINS, latency_us * BINS_PER_SLO // self.slo_us)] += 1

    def dropped(self, reason: DropReason) -> None:
        """A frame was dropped."""
        if reason is DropReason.SUPERSEDED:
            self.superseded += 1
        else:
            self.drops[reason] += 1

    def busy(self, pipeline: int, stage: int, duration_us: int) -> None:
        """A worker of a pool works for so long."""
        self.busy_us[pipeline][stage] += duration_us

    def sent(self, pipeline: int, size: int) -> None:
        """A batch was sent."""
        self.batches[pipeline][size] += 1

    def decided(self, duration_ns: int) -> None:
        """A decision took so long."""
        self.decisions += 1
        self.decision_ns += duration_ns
        self.decision_bins[min(_DECISION_BINS, duration_ns // 250)] += 1

    def missed(self) -> int:
        """Frames that ended late or dropped so far."""
        return self.late + sum(self.drops.values())

    def attainment(self) -> float:
        """Share of the offered frames that were answered in time, of those that no newer one superseded; 1.0
        when none was offered.
        """
        wanted = self.offered - self.superseded
        return self.in_time / wanted if wanted else 1.0

    def latency_us(self, quantile: float) -> float:
        """A quantile of the latency of answered frames, late ones included; 0 when there are none."""
        found = _quantile(self.latency_bins, quantile)
        return 0.0 if found < 0 else (found + 1) * self.slo_us / BINS_PER_SLO

    def decision_quantile_us(self, quantile: float) -> float:
        """A quantile of the time that one decision took; 0 when none was timed."""
        found = _quantile(self.decision_bins, quantile)
        return 0.0 if found < 0 else (found + 1) * 0.25


def _quantile(bins: list[int], quantile: float) -> int:
    """Index of the bin that holds the quantile, or -1."""
    total = sum(bins)
    wanted = quantile * total
    seen = 0
    for index, count in enumerate(bins):
        seen += count
        if count and seen >= wanted:
            return index
    return -1
