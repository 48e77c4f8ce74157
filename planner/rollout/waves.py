"""In which order GPUs are changed over whose memory does not hold the old workers and the new ones together.

GPUs change over in waves: those of one wave at once, the waves one after the other. GPUs that lose and gain
the same are of one kind, so what is sought is a way from none changed to all, (0, ..., 0) to `counts`, and a
wave is how many of each kind go next. `cost` says what a wave loses; the cheapest way is found by dynamic
programming over the counts done, which is exact. Where there are too many ways, each wave is one GPU, all
that is left of a kind, or all: the best of these next.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

Counts = tuple[int, ...]
"""GPUs of each kind."""
Cost = tuple[float, float]
"""What is lost, and how long it takes: compared in this order."""
WaveCost = Callable[[Counts, Counts], Cost]
"""Of a wave, given what is done before it."""
MOST_WAYS = 3_000
"""Waves that are looked at; each costs a tenth of a millisecond or more."""


def cheapest_waves(counts: Counts, cost: WaveCost, most_ways: int = MOST_WAYS) -> tuple[Counts, ...]:
    """The waves that lose least, in order; of equal ones those that take least time."""
    ways = math.prod((count + 1) * (count + 2) // 2 for count in counts)
    return _exact(counts, cost) if ways <= most_ways else _step_by_step(counts, cost)


def _exact(counts: Counts, cost: WaveCost) -> tuple[Counts, ...]:
    start = (0,) * len(counts)
    best: dict[Counts, tuple[Cost, tuple[Counts, ...]]] = {start: ((0.0, 0.0), ())}
    # In lexicographic order every way into a state has been seen before the state itself.
    for done in itertools.product(*(range(count + 1) for count in counts)):
        (lost, took), waves = best[done]
        for wave in _waves(_less(counts, done)):
            more_lost, more_time = cost(done, wave)
            made = ((lost + more_lost, took + more_time), (*waves, wave))
            after = _plus(done, wave)
            if after not in best or made[0] < best[after][0]:
                best[after] = made
    return best[counts][1]


def _step_by_step(counts: Counts, cost: WaveCost) -> tuple[Counts, ...]:
    """The cheapest next wave for each GPU that it changes over, again and again."""
    done, waves = (0,) * len(counts), []
    while done != counts:
        left = _less(counts, done)
        wave = min(_few_waves(left), key=lambda wave: _per_gpu(cost(done, wave), wave))
        waves.append(wave)
        done = _plus(done, wave)
    return tuple(waves)


def _waves(left: Counts) -> Iterator[Counts]:
    every = itertools.product(*(range(count + 1) for count in left))
    return (wave for wave in every if any(wave))


def _few_waves(left: Counts) -> Iterator[Counts]:
    for kind, count in enumerate(left):
        for some in sorted({1, count} if count else set()):
            yield tuple(some if other == kind else 0 for other in range(len(left)))
    yield left


def _per_gpu(cost: Cost, wave: Counts) -> Cost:
    return cost[0] / sum(wave), cost[1] / sum(wave)


def _plus(one: Sequence[int], other: Sequence[int]) -> Counts:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _less(one: Sequence[int], other: Sequence[int]) -> Counts:
    return tuple(a - b for a, b in zip(one, other, strict=True))
