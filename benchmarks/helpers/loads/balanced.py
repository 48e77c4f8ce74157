"""A client before plain Triton workers, with the balancers of python_backend.simulator.plain: it knows what
it has sent to whom, what has come back, and how long each worker's batches take.

Rules
- A worker is thought to run one batch at a time: of what had been sent to it when it came free, at most its
  largest batch, and when it was idle as soon as that is full or its first frame has waited for the delay.
- The first answer to its last frame of such a batch says that it has come free.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.helpers.loads.tagged import TaggedLoad
from planner.profile import TensorSpec
from python_backend.simulator.plain import Balancer


@dataclass(frozen=True)
class PlainSetting:
    """How plain Triton is run: what chooses the worker, and dynamic batching's delay and largest batch."""

    balancer: Balancer
    delay_us: int
    max_batch: int


class SeenWorkers:
    """Chooses a worker for each frame. latency_us[w][b - 1]: of a batch of b on worker w. Not for several
    threads at once.
    """

    def __init__(self, latency_us: Sequence[Sequence[int]], setting: PlainSetting, seed: int) -> None:
        self._latency_us = [each[: setting.max_batch] for each in latency_us]
        self._delay_us = setting.delay_us
        self._choose = getattr(self, f"_{setting.balancer.replace('-', '_')}")
        self._rng = random.Random(seed)
        self._sent = 0
        self._outstanding = [0] * len(latency_us)
        self._running = [0] * len(latency_us)
        self._began_us = [0] * len(latency_us)
        """Of the running batch; later than now while it still waits for frames."""

    def send(self, now_us: int) -> int:
        """The worker of the next frame, which is counted as sent to it."""
        worker: int = self._choose(now_us)
        self._sent += 1
        self._outstanding[worker] += 1
        if not self._running[worker]:
            self._began_us[worker], self._running[worker] = now_us + self._delay_us, 1
        elif now_us < self._began_us[worker]:
            self._running[worker] += 1
        if self._running[worker] == len(self._latency_us[worker]):
            self._began_us[worker] = min(self._began_us[worker], now_us)
        return worker

    def ended(self, worker: int, now_us: int) -> None:
        """One of its frames was answered, or given up."""
        self._outstanding[worker] -= 1
        self._running[worker] = max(0, self._running[worker] - 1)
        if not self._running[worker]:
            self._running[worker] = min(self._outstanding[worker], len(self._latency_us[worker]))
            self._began_us[worker] = now_us

    def expected_end_us(self, worker: int, now_us: int) -> int:
        """When one more frame for this worker would be done."""
        latency_us, running = self._latency_us[worker], self._running[worker]
        waiting = self._outstanding[worker] - running
        if not running:
            return now_us + self._delay_us + latency_us[0]
        if now_us < self._began_us[worker]:
            return self._began_us[worker] + latency_us[running]
        full, rest = divmod(waiting, len(latency_us))
        free_us = max(now_us, self._began_us[worker] + latency_us[running - 1])
        return free_us + full * latency_us[-1] + latency_us[rest]

    def _round_robin(self, now_us: int) -> int:
        del now_us
        return self._sent % len(self._outstanding)

    def _least_outstanding(self, now_us: int) -> int:
        del now_us
        return self._outstanding.index(min(self._outstanding))

    def _power_of_two(self, now_us: int) -> int:
        del now_us
        count = len(self._outstanding)
        first, second = self._rng.randrange(count), self._rng.randrange(count)
        return second if self._outstanding[second] < self._outstanding[first] else first

    def _least_expected_finish(self, now_us: int) -> int:
        return min(range(len(self._outstanding)), key=lambda worker: self.expected_end_us(worker, now_us))


class BalancedLoad(TaggedLoad):
    """Sends each frame to the worker that the balancer chooses. targets: as latency_us has workers."""

    def __init__(
        self,
        targets: Sequence[tuple[str, str]],
        spec: TensorSpec,
        output: str,
        slo_us: int,
        latency_us: Sequence[Sequence[int]],
        setting: PlainSetting,
    ) -> None:
        super().__init__(targets, spec, output, slo_us)
        self._seen = SeenWorkers(latency_us, setting, seed=1)
        self._lock = threading.Lock()

    def _target(self, number: int) -> int:
        del number
        with self._lock:
            return self._seen.send(_now_us())

    def _came_back(self, target: int) -> None:
        with self._lock:
            self._seen.ended(target, _now_us())


def _now_us() -> int:
    return round(time.monotonic() * 1e6)
