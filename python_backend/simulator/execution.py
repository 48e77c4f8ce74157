"""What really happens to a batch: its stages' true durations, when latency varies.

Rules: workers serve in reserved order, links what is ready first, and both start as soon as they can, never
before the dispatch; without jitter that is what was reserved. Durations are the reserved ones times a factor
of mean about 1.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from planner.serving import ServedModel
from python_backend.scheduler.actions import Ticket
from python_backend.scheduler.batches import Reservation
from python_backend.scheduler.links import Links


@dataclass(frozen=True)
class Jitter:
    """How stage latencies vary: Gaussian with standard deviation `share`, and now and then a straggler."""

    share: float = 0.0
    straggler_probability: float = 0.0
    straggler_factor: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.share) and 0 <= self.share < 1):
            raise ValueError(f"jitter share {self.share} must be at least 0 and below 1")
        if not 0 <= self.straggler_probability <= 1:
            raise ValueError(f"straggler_probability {self.straggler_probability} must lie in [0, 1]")
        if not (math.isfinite(self.straggler_factor) and self.straggler_factor >= 1):
            raise ValueError(f"straggler_factor {self.straggler_factor} must be at least 1")


class Execution:
    """True times of workers and links, beside the core's predicted ones."""

    def __init__(self, served: ServedModel, jitter: Jitter) -> None:
        self.jitter: Jitter = jitter
        self.rng: random.Random = random.Random(jitter.seed)
        self.worker_free: dict[str, int] = {}
        self.links: Links = Links()
        self.uplink: dict[str, int] = {}
        self.downlink: dict[str, int] = {}
        for pipeline in served.pipelines:
            for stage in pipeline.stages:
                for worker in stage.workers:
                    self.uplink[worker.name] = self.links.uplink(worker.uplink)
                    self.downlink[worker.name] = self.links.downlink(worker.downlink)

    def run(self, ticket: Ticket, now_us: int) -> list[int]:
        """When each stage of a ticket sent now truly ends."""
        self.links.now_us = now_us
        ends: list[int] = []
        ready_us = now_us
        sender = ""
        for hop in ticket.hops:
            if sender:
                length_us = hop.transfer_end_us - hop.transfer_start_us
                ready_us = self._transfer(self.uplink[sender], self.downlink[hop.worker], ready_us, length_us)
            start_us = max(ready_us, self.worker_free.get(hop.worker, 0))
            ready_us = start_us + self._duration_us(hop.end_us - hop.start_us)
            self.worker_free[hop.worker] = ready_us
            ends.append(ready_us)
            sender = hop.worker
        return ends

    def _transfer(self, uplink: int, downlink: int, ready_us: int, length_us: int) -> int:
        """When a transfer that is ready at `ready_us` ends."""
        start_us = self.links.fit_us(uplink, downlink, ready_us, length_us)
        taken = Reservation(0, 0, 0)
        taken.uplink = uplink
        taken.downlink = downlink
        taken.transfer_start_us = start_us
        taken.transfer_end_us = start_us + length_us
        self.links.add(taken)
        return start_us + length_us

    def _duration_us(self, planned_us: int) -> int:
        jitter = self.jitter
        factor = 1.0
        if jitter.share > 0:
            factor = max(0.1, self.rng.gauss(1.0, jitter.share))
        if jitter.straggler_probability > 0 and self.rng.random() < jitter.straggler_probability:
            factor *= jitter.straggler_factor
        return max(1, round(planned_us * factor))
