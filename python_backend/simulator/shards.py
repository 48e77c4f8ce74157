"""Several entries' cores on one clock, each with its shard of a model; frames pass between them, once.

Rules
- Each frame comes at an entry of its own, any as likely as any other, as a load balancer has it.
- A frame that is passed on comes to the other entry `hop_us` later and its answer goes back in as long, so it
  has 2 hop_us less.
- Entries tell each other their backlogs every `tell_us`; the telling takes hop_us too.
- Batches of all cores meet on the same links and cores of servers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from planner.serving import ServedModel
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.forwarding import Forwarding
from python_backend.scheduler.links import Links
from python_backend.scheduler.timelines import NEVER
from python_backend.simulator.capacity import Capacity, TriedLoad, Workload, highest_reached
from python_backend.simulator.counts import SimulatedCounts
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.execution import Execution
from python_backend.simulator.jitter import Jitter
from python_backend.simulator.together import shared_cores

SPARE_BATCHES = 3
"""With a third of it twice as many frames are passed on, and no more are served (l4-t4, two entries)."""


@dataclass(frozen=True)
class Passing:
    """How frames pass between entries. None of them do where `passes` is False."""

    passes: bool = True
    hop_us: int = 1_000
    tell_us: int = 20_000


class ShardedRun:
    """One run of the cores of one model's shards."""

    def __init__(
        self,
        shards: Sequence[ServedModel],
        passing: Passing,
        seed: int = 1,
        executions: Sequence[Execution] = (),
        policy: str = "adaptive",
    ) -> None:
        """executions: of each shard; one and the same where several own the same workers. Without them every
        shard has its own, on common links."""
        self._passing = passing
        self._rng = random.Random(seed)
        links, cores = Links(), shared_cores(shards, parts=not executions)
        self.drivers = [
            SimulatedDriver(
                shard,
                SchedulerCore(shard, policy),
                executions[index] if executions else Execution(shard, Jitter(), links, cores),
            )
            for index, shard in enumerate(shards)
        ]
        self._ways = [Forwarding(passing.hop_us, _spare_us(shard)) for shard in shards]
        for mine, way in enumerate(self._ways):
            for other, shard in enumerate(shards):
                if other != mine:
                    way.add(str(other), shard.planned_rps)
        self.passed = 0
        """Frames that went from one entry to another."""
        self.entries: tuple[int, ...] = tuple(range(len(shards)))
        """Those that clients send to now."""
        self._on_their_way: list[tuple[int, int, int, int]] = []
        """Heap of (arrival, serial number, entry, when its client sent it)."""
        self._told: list[tuple[int, int, int, int]] = []
        """Heap of (arrival, serial number, teller, backlog)."""
        self._serial = 0
        self._tell_us = 0

    def run(self, arrivals: Iterator[int], max_missed: int = NEVER) -> SimulatedCounts:
        """All arrivals, until every frame has ended or too many have missed; what all cores counted."""
        next_us = next(arrivals, NEVER)
        while self._missed() <= max_missed:
            driver = min(self.drivers, key=SimulatedDriver.next_us)
            way_us = self._on_their_way[0][0] if self._on_their_way else NEVER
            soonest_us = min(driver.next_us(), next_us, way_us)
            if soonest_us == NEVER:
                break
            self._tell_all(soonest_us)
            if driver.next_us() <= min(next_us, way_us):
                driver.step()
            elif way_us <= next_us:
                at_us, _, entry, born_us = heappop(self._on_their_way)
                self.drivers[entry].arrive(at_us, born_us)
            else:
                self._arrive(next_us)
                next_us = next(arrivals, NEVER)
        return self._counted()

    def _missed(self) -> int:
        return sum(driver.missed for driver in self.drivers)

    def _arrive(self, now_us: int) -> None:
        entry = self._rng.choice(self.entries)
        own_us = self.drivers[entry].core.backlog_us(now_us)
        target = self._ways[entry].target(own_us, now_us) if self._passing.passes else ""
        if not target:
            self.drivers[entry].arrive(now_us, now_us)
            return
        self.passed += 1
        self._serial += 1
        hop_us = self._passing.hop_us
        # The way back counts as if its client had sent it so much earlier.
        heappush(self._on_their_way, (now_us + hop_us, self._serial, int(target), now_us - hop_us))

    def _tell_all(self, now_us: int) -> None:
        while self._told and self._told[0][0] <= now_us:
            at_us, _, teller, backlog_us = heappop(self._told)
            for entry, way in enumerate(self._ways):
                if entry != teller:
                    way.told(str(teller), backlog_us, at_us)
        if now_us >= self._tell_us:
            for teller, driver in enumerate(self.drivers):
                self._serial += 1
                said = (now_us + self._passing.hop_us, self._serial, teller, driver.core.backlog_us(now_us))
                heappush(self._told, said)
            self._tell_us = now_us + self._passing.tell_us

    def _counted(self) -> SimulatedCounts:
        whole = SimulatedCounts(self.drivers[0].core.served_model)
        for driver in self.drivers:
            whole.add(driver.counts)
        return whole


def _spare_us(shard: ServedModel) -> int:
    """The time in which so many planned batches fill: backlogs differ by as much at any moment."""
    batch = max(pipeline.batch_size for pipeline in shard.pipelines)
    return round(SPARE_BATCHES * 1e6 * batch / shard.planned_rps)


def find_sharded_capacity(
    shards: Sequence[ServedModel],
    rates_rps: Sequence[float],
    workload: Workload,
    guess_rps: float,
    passing: Passing | None = None,
    target: float = 0.99,
) -> Capacity:
    """As find_capacity, of one model's shards together."""
    tried: dict[int, TriedLoad] = {}

    def reached(index: int) -> bool:
        if index not in tried:
            tried[index] = _try_load(shards, rates_rps[index], workload, passing or Passing(), target)
        return tried[index].attainment is not None

    index = highest_reached(rates_rps, guess_rps, reached)
    best = tried[index] if index >= 0 else None
    return Capacity(best.rate_rps if best else 0.0, best, tuple(tried[index] for index in sorted(tried)))


def _try_load(
    shards: Sequence[ServedModel], rate_rps: float, workload: Workload, passing: Passing, target: float
) -> TriedLoad:
    allowed = (1.0 - target) * len(workload.seeds) + 1e-12
    attained = 0.0
    for seed in workload.seeds:
        times = workload.times_us(rate_rps, seed, shards[0].model)
        if not times:
            attained += 1.0
            continue
        run = ShardedRun(shards, passing, seed)
        max_missed = int(allowed * len(times))
        counts = run.run(iter(times), max_missed)
        if counts.missed() > max_missed:
            return TriedLoad(rate_rps, None)
        allowed -= counts.missed() / len(times)
        attained += counts.attainment()
    return TriedLoad(rate_rps, attained / len(workload.seeds))
