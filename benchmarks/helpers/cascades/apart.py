"""The same two models behind BLS on one Triton server, simulated: what a cascade is compared with.

Every model has instances on GPUs of its own and one queue. Triton's dynamic batcher hands it to a free
instance when a whole batch waits or the oldest frame has waited `delay_us`; a queue policy may reject what
has waited longer than `timeout_us`. The BLS model sends all crops of a frame at once and takes no time. Of
several free instances the fastest is taken. Which GPUs each model gets, delays and time-outs (the split of
the SLO) are searched for the most load of which 99 % of the frames are complete.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from planner.cascades.data import Cascade
from planner.cascades.fanouts import draw_counts
from planner.problem import Problem
from planner.profile import ModelProfile
from python_backend.simulator.capacity import TARGET, Workload, highest_reached

Times = npt.NDArray[np.int64]
_REJECTED = -1
_NEVER = 1 << 62
_DELAYS_US = (0, 5_000, 15_000)
_SHARES = (None, 0.35, 0.6)
"""Of the SLO, after which a queue rejects."""
_SPLITS = 5
"""Divisions of the GPUs that are tried: those of the highest throughput."""
_GRID = 0.005
"""Of the guess: as fine as what it is compared with."""


@dataclass(frozen=True)
class Queue:
    """How one model is served. instances: of each, latency_us[b - 1] of a batch of b."""

    instances: tuple[tuple[int, ...], ...]
    delay_us: int
    timeout_us: int = _NEVER


def serve_queue(come_us: Times, queue: Queue) -> Times:
    """When each frame was answered; -1: rejected. come_us: rising."""
    answered = np.full(len(come_us), _REJECTED, dtype=np.int64)
    free = sorted(range(len(queue.instances)), key=lambda index: queue.instances[index][0])
    ends: list[tuple[int, int]] = []
    waiting: deque[int] = deque()
    arrivals, next_frame, now_us = come_us.tolist(), 0, 0
    while next_frame < len(arrivals) or waiting:
        oldest_us = arrivals[waiting[0]] + queue.delay_us if waiting and free else _NEVER
        arrival_us = arrivals[next_frame] if next_frame < len(arrivals) else _NEVER
        now_us = max(now_us, min(oldest_us, arrival_us, ends[0][0] if ends else _NEVER))
        while ends and ends[0][0] <= now_us:
            free.append(heappop(ends)[1])
        free.sort(key=lambda index: queue.instances[index][0])
        while next_frame < len(arrivals) and arrivals[next_frame] <= now_us:
            waiting.append(next_frame)
            next_frame += 1
        while waiting and now_us - arrivals[waiting[0]] > queue.timeout_us:
            waiting.popleft()
        while waiting and free:
            latency = queue.instances[free[0]]
            if len(waiting) < len(latency) and now_us < arrivals[waiting[0]] + queue.delay_us:
                break
            batch = [waiting.popleft() for _ in range(min(len(waiting), len(latency)))]
            end_us = now_us + latency[len(batch) - 1]
            answered[batch] = end_us
            heappush(ends, (end_us, free.pop(0)))
    return answered


def reaches_apart(cascade: Cascade, queues: Sequence[Queue], rate_rps: float, workload: Workload) -> bool:
    """Whether enough of a two-member cascade's frames are complete, in the mean over the workload's seeds."""
    missing = (1 - TARGET) * len(workload.seeds) + 1e-12
    for seed in workload.seeds:
        missing -= 1 - _attained(cascade, queues, rate_rps, workload, seed)
        if missing < 0:
            return False
    return True


def _attained(
    cascade: Cascade, queues: Sequence[Queue], rate_rps: float, workload: Workload, seed: int
) -> float:
    born = np.array(workload.times_us(rate_rps, seed, cascade.name), dtype=np.int64)
    first = serve_queue(born, queues[0])
    complete = (first != _REJECTED) & (first <= born + cascade.slo_us)
    there = np.nonzero(first != _REJECTED)[0]
    there = there[np.argsort(first[there], kind="stable")]
    counts = draw_counts(cascade.members[1].fanout, len(born), np.random.default_rng((seed, 1)))[there]
    origin = np.repeat(there, counts)
    second = serve_queue(np.repeat(first[there], counts), queues[1])
    in_time = (second != _REJECTED) & (second <= born[origin] + cascade.slo_us)
    np.logical_and.at(complete, origin, in_time)
    return float(complete.mean())


def best_apart(problem: Problem, workload: Workload, guess_rps: float) -> float:
    """The most frames/s of the problem's one cascade, of two members, over everything that is searched."""
    (cascade,) = problem.cascades
    rates = [guess_rps * _GRID * step for step in range(1, round(2 / _GRID) + 1)]
    best = -1
    for queues in (queues for split in _splits(problem, cascade) for queues in _settings(cascade, split)):

        def reached(index: int, queues: Sequence[Queue] = queues) -> bool:
            return reaches_apart(cascade, queues, rates[index], workload)

        # Most settings do not reach what the best one does, which one run shows.
        if best < 0 or (best + 1 < len(rates) and reached(best + 1)):
            best = max(best, highest_reached(rates, rates[max(0, best)], reached))
    return rates[best] if best >= 0 else 0.0


def _settings(cascade: Cascade, split: Sequence[tuple[tuple[int, ...], ...]]) -> Iterator[list[Queue]]:
    each = itertools.product(_DELAYS_US, _SHARES)
    for pair in itertools.product(list(each), repeat=2):
        yield [
            Queue(instances, delay_us, _NEVER if share is None else round(share * cascade.slo_us))
            for instances, (delay_us, share) in zip(split, pair, strict=True)
        ]


def _splits(problem: Problem, cascade: Cascade) -> list[list[tuple[tuple[int, ...], ...]]]:
    """Instances of both models, for the divisions of the GPUs that could carry most."""
    classes = [one.name for one in problem.cluster.gpu_classes]
    counts = [problem.cluster.gpu_count(gpu) for gpu in classes]
    profiles = [problem.profile.model(member.model) for member in cascade.members]
    found = []
    for mine in itertools.product(*(range(count + 1) for count in counts)):
        theirs = [count - one for count, one in zip(counts, mine, strict=True)]
        split = [
            _instances(profile, classes, number, cascade.slo_us)
            for profile, number in zip(profiles, (mine, theirs), strict=True)
        ]
        need = [cascade.frames_of(member.model) for member in cascade.members]
        most = min(_most_rps(one) / per_frame for one, per_frame in zip(split, need, strict=True))
        found.append((most, split))
    found.sort(key=lambda pair: -pair[0])
    return [split for most, split in found[:_SPLITS] if most > 0]


def _instances(
    profile: ModelProfile, classes: Sequence[str], counts: Sequence[int], slo_us: int
) -> tuple[tuple[int, ...], ...]:
    """Of the whole model, a GPU each; batches that alone would take the SLO are left out."""
    found = []
    for gpu, count in zip(classes, counts, strict=True):
        table = profile.table(gpu, 1)
        if table is None:
            continue
        latency = tuple(round(sum(row[b] for row in table.latency_us)) for b in range(len(table.batch_sizes)))
        usable = tuple(us for us in latency if us < slo_us)
        found += [usable] * count if usable else []
    return tuple(found)


def _most_rps(instances: Sequence[tuple[int, ...]]) -> float:
    return sum(max(1e6 * (b + 1) / us for b, us in enumerate(latency)) for latency in instances)
