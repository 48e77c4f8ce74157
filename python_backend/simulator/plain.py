"""Plain Triton behind a load balancer, on virtual time: what a sceptic would run instead of this project.

Each worker is one tritonserver with the whole model on a GPU and Triton's dynamic batching: when its instance
is free, it runs what waits, at most `max_batch` frames, as soon as it has that many or the oldest has waited
`delay_us` (max_queue_delay_microseconds). A balancer before them sends each frame to one worker:

- round-robin
- least-outstanding: the fewest frames that it waits for; the first of equals
- power-of-two: of two workers drawn at random the one with fewer
- least-expected-finish: knows each worker's latencies and what it was sent, as a scheduler with the profile
  would; it does not know deadlines, and reserves nothing

Rules: completions go before arrivals of the same time. With `rejects`, a frame that has waited so long that
it would end late in a largest batch is rejected when its turn comes (Triton's queue policy, with
default_timeout_microseconds and timeout_action REJECT). Without, a late frame is served all the same, as by
Triton without a queue policy.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal, get_args

Balancer = Literal["round-robin", "least-outstanding", "power-of-two", "least-expected-finish"]
BALANCERS: tuple[Balancer, ...] = get_args(Balancer)
_END, _TIMER = 0, 1


@dataclass(frozen=True)
class PlainWorker:
    """latency_us[b - 1]: a batch of b frames; as many as there are make the largest batch."""

    latency_us: tuple[int, ...]


class PlainFleet:
    """Serves one stream of arrivals, then is done with."""

    def __init__(
        self,
        workers: Sequence[PlainWorker],
        balancer: Balancer,
        delay_us: int,
        seed: int,
        rejects: bool = False,
    ) -> None:
        if not workers:
            raise ValueError("no worker can serve the model alone")
        self._latency = [worker.latency_us for worker in workers]
        self._queues: list[deque[int]] = [deque() for _ in workers]
        self._outstanding = [0] * len(workers)
        self._busy_until = [0] * len(workers)
        self._timer = [-1] * len(workers)
        self._running: list[list[int]] = [[] for _ in workers]
        self._delay_us = delay_us
        self._rejects = rejects
        self._choose = getattr(self, f"_{balancer.replace('-', '_')}")
        self._next = -1
        self._rng = random.Random(seed)
        self._events: list[tuple[int, int, int]] = []
        self._slo_us = 0
        self._missed = 0

    def missed(self, times_us: Sequence[int], slo_us: int, most: int) -> int:
        """How many of these frames are late or rejected; broken off beyond `most`."""
        self._slo_us = slo_us
        for now_us in times_us:
            while self._events and self._events[0][0] <= now_us:
                self._handle()
            if self._missed > most:
                return self._missed
            worker = self._choose(now_us)
            self._queues[worker].append(now_us)
            self._outstanding[worker] += 1
            self._start(worker, now_us)
        while self._events and self._missed <= most:
            self._handle()
        return self._missed

    def _handle(self) -> None:
        now_us, kind, worker = heappop(self._events)
        if kind == _END:
            self._missed += sum(now_us - arrived > self._slo_us for arrived in self._running[worker])
            self._outstanding[worker] -= len(self._running[worker])
            self._running[worker] = []
        self._start(worker, now_us)

    def _start(self, worker: int, now_us: int) -> None:
        """Run what waits, or wait for more."""
        queue, latency = self._queues[worker], self._latency[worker]
        if self._running[worker]:
            return
        while self._rejects and queue and now_us - queue[0] > self._slo_us - latency[-1]:
            queue.popleft()
            self._outstanding[worker] -= 1
            self._missed += 1
        if not queue:
            return
        due_us = queue[0] + self._delay_us
        if len(queue) < len(latency) and now_us < due_us:
            if self._timer[worker] != due_us:
                self._timer[worker] = due_us
                heappush(self._events, (due_us, _TIMER, worker))
            return
        size = min(len(queue), len(latency))
        self._running[worker] = [queue.popleft() for _ in range(size)]
        self._busy_until[worker] = now_us + latency[size - 1]
        heappush(self._events, (self._busy_until[worker], _END, worker))

    def _round_robin(self, now_us: int) -> int:
        del now_us
        self._next = (self._next + 1) % len(self._queues)
        return self._next

    def _least_outstanding(self, now_us: int) -> int:
        del now_us
        return self._outstanding.index(min(self._outstanding))

    def _power_of_two(self, now_us: int) -> int:
        del now_us
        count = len(self._queues)
        first, second = self._rng.randrange(count), self._rng.randrange(count)
        return second if self._outstanding[second] < self._outstanding[first] else first

    def _least_expected_finish(self, now_us: int) -> int:
        best, least = 0, -1
        for worker, latency in enumerate(self._latency):
            full, rest = divmod(len(self._queues[worker]), len(latency))
            end_us = max(now_us, self._busy_until[worker]) + full * latency[-1] + latency[rest]
            if least < 0 or end_us < least:
                best, least = worker, end_us
        return best
