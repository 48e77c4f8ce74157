"""A wire that delays and loses: which packets come out of it, and when. Pure; `relay` moves the packets.

Rules
- A packet is delayed by between delay - jitter and delay + jitter, evenly, and never by less than nothing: as
  netem does it.
- A wire that keeps order lets no packet overtake another: one with a small delay comes with the one before.
- Whether the nth packet is lost, and its delay, depend on the seed and n alone.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Nature:
    """Of a wire, each way. loss: share of the packets."""

    delay_us: float
    jitter_us: float
    loss: float
    keeps_order: bool = True


@dataclass
class Wire:
    """One way of it. `lost`, `carried`: packets so far."""

    nature: Nature
    seed: int
    lost: int = 0
    carried: int = 0
    _under_way: list[tuple[float, int, bytes]] = field(default_factory=list)
    _last_us: float = 0.0

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed).random
        self._least_us = self.nature.delay_us - self.nature.jitter_us

    def put(self, packet: bytes, now_us: float) -> None:
        """In at one end."""
        is_lost = self._draw() < self.nature.loss
        due_us = now_us + max(0.0, self._least_us + 2 * self.nature.jitter_us * self._draw())
        if is_lost:
            self.lost += 1
            return
        if self.nature.keeps_order:
            due_us = self._last_us = max(due_us, self._last_us)
        self.carried += 1
        heapq.heappush(self._under_way, (due_us, self.carried, packet))

    def take(self, now_us: float) -> Iterator[bytes]:
        """What has come out at the other end."""
        while self._under_way and self._under_way[0][0] <= now_us:
            yield heapq.heappop(self._under_way)[2]

    @property
    def next_us(self) -> float:
        """When the next packet comes out; infinity without one."""
        return self._under_way[0][0] if self._under_way else float("inf")
