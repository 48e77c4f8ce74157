"""How much load a served model bears: attainment at a rate, and the highest rate on a grid that reaches a
target.

Attainment is the mean over the workload's seeds. A run is broken off once it has missed so many frames that
the target is out of reach, so only rates near the capacity cost a full simulation.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from planner.serving import ServedModel
from python_backend.scheduler.core import SchedulerCore
from python_backend.simulator.arrivals import frame_bytes, parse_arrivals
from python_backend.simulator.counts import SimulatedCounts
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.execution import Execution
from python_backend.simulator.jitter import Jitter

TARGET = 0.99
"""Attainment that a load must reach to count as served."""


@dataclass(frozen=True)
class Workload:
    """What is thrown at a model: `arrivals` as in parse_arrivals; attainment is the mean over `seeds`.
    frame_spread: coefficient of variation of frames' bytes, where the way in is counted. streams: so many,
    whose frames come in turn; 0: frames name none.
    """

    arrivals: str = "poisson"
    seconds: float = 30.0
    seeds: tuple[int, ...] = (1, 2, 3)
    jitter: Jitter = field(default_factory=Jitter)
    frame_spread: float = 0.0
    streams: int = 0

    def times_us(self, rate_rps: float, seed: int, stream: str) -> list[int]:
        """Arrival times of one run; `stream` is the model's name."""
        return list(parse_arrivals(self.arrivals, rate_rps).times_us(self.seconds, seed, stream))

    @property
    def exact(self) -> bool:
        """Whether all takes just what was planned with."""
        return self.frame_spread == 0 and not self.jitter.varies

    def execution(self, served: ServedModel, seed: int) -> Execution | None:
        """How batches really run; None for exactly as reserved."""
        if not self.jitter.varies:
            return None
        return Execution(served, dataclasses.replace(self.jitter, seed=self.jitter.seed + seed))

    def frame_bytes(self, served: ServedModel, seed: int) -> Iterator[int] | None:
        """Of each frame of one run; None: as planned."""
        if self.frame_spread == 0 or served.entry is None:
            return None
        return frame_bytes(served.entry.frame_bytes, self.frame_spread, seed, served.model)

    def places(self) -> Iterator[tuple[str, int]] | None:
        """Of each frame in turn: its stream and its place there; None: frames name no stream."""
        if self.streams == 0:
            return None
        return ((f"camera-{n % self.streams}", n // self.streams) for n in itertools.count())


@dataclass(frozen=True)
class TriedLoad:
    """One rate that was tried. attainment None: broken off below the target."""

    rate_rps: float
    attainment: float | None
    counts: tuple[SimulatedCounts, ...] = field(repr=False, compare=False, default=())


@dataclass(frozen=True)
class Capacity:
    """The highest rate tried that reached the target (0.0 when none did) and everything tried on the way."""

    load_rps: float
    best: TriedLoad | None
    tried: tuple[TriedLoad, ...]


def try_load(
    served: ServedModel, policy: str, rate_rps: float, workload: Workload, target: float = TARGET
) -> TriedLoad:
    """Serve `rate_rps` with every seed; broken off as soon as the mean attainment must end below `target`."""
    streams = [workload.times_us(rate_rps, seed, served.model) for seed in workload.seeds]
    # The mean over seeds weighs each seed alike, whatever its number of frames.
    allowed = (1.0 - target) * len(streams) + 1e-12
    attained, all_counts = 0.0, []
    for seed, times in zip(workload.seeds, streams, strict=True):
        if not times:
            attained += 1.0
            continue
        driver = SimulatedDriver(
            served,
            SchedulerCore(served, policy),
            workload.execution(served, seed),
            frame_bytes=workload.frame_bytes(served, seed),
            places=workload.places(),
        )
        driver.max_missed = int(allowed * len(times))
        counts = driver.run(iter(times))
        if counts.missed() > driver.max_missed:
            return TriedLoad(rate_rps, None)
        allowed -= counts.missed() / len(times)
        attained += counts.attainment()
        all_counts.append(counts)
    return TriedLoad(rate_rps, attained / len(streams), tuple(all_counts))


def find_capacity(
    served: ServedModel,
    policy: str,
    rates_rps: Iterable[float],
    workload: Workload,
    guess_rps: float,
    target: float = TARGET,
) -> Capacity:
    """The highest of `rates_rps` (ascending) served at `target`.

    Gallops from the rate nearest `guess_rps` to one that is served and one that is not, then halves the gap.
    """
    rates = list(rates_rps)
    tried: dict[int, TriedLoad] = {}

    def reached(index: int) -> bool:
        if index not in tried:
            tried[index] = try_load(served, policy, rates[index], workload, target)
        return tried[index].attainment is not None

    index = highest_reached(rates, guess_rps, reached)
    best = tried[index] if index >= 0 else None
    return Capacity(best.rate_rps if best else 0.0, best, tuple(tried[index] for index in sorted(tried)))


def highest_reached(rates_rps: Sequence[float], guess_rps: float, reached: Callable[[int], bool]) -> int:
    """Index of the highest of the ascending rates that is `reached`, or -1."""
    low, high = _bracket(len(rates_rps), _nearest(rates_rps, guess_rps), reached)
    while high - low > 1:
        middle = (low + high) // 2
        if reached(middle):
            low = middle
        else:
            high = middle
    return low


def _nearest(rates: Sequence[float], guess_rps: float) -> int:
    return min(range(len(rates)), key=lambda index: abs(rates[index] - guess_rps), default=0)


def _bracket(count: int, start: int, reached: Callable[[int], bool]) -> tuple[int, int]:
    """(highest index known to be served or -1, lowest known not to be or `count`), galloping from `start`."""
    if count == 0:
        return -1, 0
    step = 1
    if reached(start):
        low, high = start, start + step
        while high < count and reached(high):
            step *= 2
            low, high = high, high + step
        return low, min(high, count)
    low, high = start - step, start
    while low >= 0 and not reached(low):
        step *= 2
        low, high = low - step, low
    return max(low, -1), high
