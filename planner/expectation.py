"""What a plan is to hold under: how latencies vary, how wrong they may be, how frames arrive. Data only.

Rules
- A share left out (None) is the profile's own: the spread that was measured, the error that its estimates are
  expected to have; 0 where the profile knows none.
- Jitter varies from batch to batch and the scheduler sees it as it happens. A slowdown is there all the time,
  is unknown to plan and scheduler, and is drawn anew per GPU class and block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from planner.profile import LatencyTable

SPREAD_PER_DEVIATION = 0.6745
"""A profile's spread is half the interquartile range over the median: so much of a normal standard
deviation."""


@dataclass(frozen=True)
class Expectation:
    """jitter: standard deviation of a stage's latency, a share of it. stragglers: the share of stage runs
    that take straggler_factor times as long. slowdown: latencies may be up to this share off. arrivals: as in
    `ppipe simulate --arrivals`. held_in: the share of scenarios in which the promised load must be served.
    """

    jitter: float | None = None
    jitter_by_class: Mapping[str, float] = field(default_factory=dict)
    """Of these GPU classes, before `jitter`."""
    stragglers: float = 0.0
    straggler_factor: float = 3.0
    slowdown: float | None = None
    slowdown_by_class: Mapping[str, float] = field(default_factory=dict)
    arrivals: str = "poisson"
    held_in: float = 0.95

    def by_class(self, renamed: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Expectation:
        """The same for a cluster whose classes have other names."""
        return replace(
            self,
            jitter_by_class=renamed(self.jitter_by_class),
            slowdown_by_class=renamed(self.slowdown_by_class),
        )


def jitter_of(table: LatencyTable, block: int, batch_size: int, expect: Expectation) -> float:
    """Standard deviation of one block's latency on one kind of worker, as a share of it."""
    stated = expect.jitter_by_class.get(table.gpu, expect.jitter)
    if stated is not None:
        return stated
    if not table.spread or batch_size not in table.batch_sizes:
        return 0.0
    return table.spread[block][table.batch_sizes.index(batch_size)] / SPREAD_PER_DEVIATION


def slowdown_of(table: LatencyTable, expect: Expectation) -> float:
    """How far the latencies on one kind of worker may be off, as a share of them."""
    stated = expect.slowdown_by_class.get(table.gpu, expect.slowdown)
    if stated is not None:
        return stated
    return table.expected_error or 0.0
