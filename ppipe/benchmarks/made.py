"""Made planning problems of any size from a seed: GPU classes of different speeds, networks of different
shapes.

Latencies follow a small roofline: a block has work and traffic, a class speeds for both, a batch saves fixed
time, and a slice of a GPU gets its share of the speed and a little more, because small kernels do not fill a
GPU.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from planner.cluster import Cluster, GpuClass, Server
from planner.problem import Demand, PlanOptions, Problem
from planner.profile import LatencyTable, ModelProfile, Profile

BATCHES = (1, 2, 3, 4, 5, 6, 7, 8)
LARGEST_BATCH_OF_SLICES = {1: 8, 2: 4, 3: 2, 4: 2}
SLICE_BONUS = 0.06
SLO_OF_FASTEST = 5.0


@dataclass(frozen=True)
class MadeSize:
    """How large a problem to make."""

    gpus: int
    classes: int
    models: int
    blocks: int = 10
    max_slices: int = 4
    max_stages: int = 2


def made_problem(size: MadeSize, seed: int) -> Problem:
    """The problem of this size and seed; the same on every machine."""
    rng = random.Random(f"{seed}/{size}")
    speeds = [10 ** rng.uniform(0, 0.9) for _ in range(size.classes)]
    cluster = _cluster(rng, size)
    profiles = tuple(_profile(rng, f"net{number:02d}", size, speeds) for number in range(size.models))
    demands = tuple(
        Demand(model=profile.model, slo_us=_slo_us(profile), weight=round(rng.uniform(0.5, 2.0), 3))
        for profile in profiles
    )
    options = PlanOptions(max_stages=size.max_stages)
    return Problem(cluster=cluster, profile=Profile(models=profiles), demands=demands, options=options)


def _cluster(rng: random.Random, size: MadeSize) -> Cluster:
    shares = [rng.uniform(0.5, 2.0) for _ in range(size.classes)]
    counts = [max(1, int(size.gpus * share / sum(shares))) for share in shares]
    counts[0] += size.gpus - sum(counts)
    servers = []
    for number, count in enumerate(counts):
        per_server, gbps = rng.choice((1, 2, 4, 8)), rng.choice((10.0, 25.0, 40.0))
        for index, first in enumerate(range(0, count, per_server)):
            servers.append(Server(f"c{number}-{index}", f"C{number}", min(per_server, count - first), gbps))
    classes = tuple(
        GpuClass(name=f"C{number}", max_slices_per_gpu=size.max_slices) for number in range(size.classes)
    )
    return Cluster(gpu_classes=classes, servers=tuple(servers))


def _profile(rng: random.Random, name: str, size: MadeSize, speeds: list[float]) -> ModelProfile:
    total_us = rng.uniform(8_000, 40_000)
    shares = [rng.uniform(0.3, 1.7) for _ in range(size.blocks)]
    work = [total_us * share / sum(shares) for share in shares]
    # How much a block gains from a faster class: late blocks of a network are often bound by other things.
    gains = [rng.uniform(0.5, 1.0) for _ in range(size.blocks)]
    cuts = tuple(rng.randrange(100_000, 4_000_000) for _ in range(size.blocks - 1))
    fixed = rng.uniform(0.1, 0.4)
    tables = []
    for number, speed in enumerate(speeds):
        for slices in range(1, size.max_slices + 1):
            batches = tuple(b for b in BATCHES if b <= LARGEST_BATCH_OF_SLICES.get(slices, 1))
            share = 1 / slices * (1 + SLICE_BONUS * (slices - 1))
            rows = tuple(
                tuple(round(w / speed**gain / share * (fixed + (1 - fixed) * b)) for b in batches)
                for w, gain in zip(work, gains, strict=True)
            )
            tables.append(
                LatencyTable(gpu=f"C{number}", slices_per_gpu=slices, batch_sizes=batches, latency_us=rows)
            )
    return ModelProfile(model=name, cut_bytes=cuts, tables=tuple(tables))


def _slo_us(profile: ModelProfile) -> int:
    """A few times the whole network's latency on its fastest class at batch 1."""
    whole = [sum(row[0] for row in table.latency_us) for table in profile.tables if table.slices_per_gpu == 1]
    return int(SLO_OF_FASTEST * min(whole))
