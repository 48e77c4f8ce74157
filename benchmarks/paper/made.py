"""Made problems like the paper's, from a seed: two GPU classes of unlike speed, 100 GPUs, three networks of
ten blocks, so that nothing is tuned to the problems at hand.

Latencies follow a small roofline: a block has work and traffic, a class speeds for both, batches save the
fixed part, a slice of a GPU gets its share of it and a little more. SLOs are five times the mean batch-1
latency on the fast class, as in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from planner.cluster import Cluster, GpuClass, Server
from planner.problem import Demand, PlanOptions, Problem
from planner.profile import LatencyTable, ModelProfile, Profile

GPUS = {"fast": 25, "slow": 75}
BLOCKS, MODELS = 10, 3
BATCHES = tuple(range(1, 9))
SLO_OF_FAST = 5.0
SLICE_BONUS = 0.05
"""Per slice: small kernels do not fill a GPU."""


def made_settings(seed: int, count: int) -> Iterator[Problem]:
    """So many problems; the same on every machine."""
    for number in range(count):
        yield made_setting(random.Random(f"{seed}/{number}"))


def made_setting(rng: random.Random) -> Problem:
    """One problem of the paper's size."""
    per_server = {gpu: rng.choice((1, 2, 4)) for gpu in GPUS}
    slices = {gpu: rng.choice((1, 4, 4)) for gpu in GPUS}
    gbps = rng.choice((6.0, 10.0))
    slower = {"fast": (1.0, 1.0), "slow": (rng.uniform(2.5, 5.0), rng.uniform(1.0, 2.0))}
    servers = [
        Server(f"{gpu}-{index}", gpu, min(per_server[gpu], count - first), gbps)
        for gpu, count in GPUS.items()
        for index, first in enumerate(range(0, count, per_server[gpu]))
    ]
    cluster = Cluster(
        gpu_classes=tuple(GpuClass(name=gpu, max_slices_per_gpu=slices[gpu]) for gpu in GPUS),
        servers=tuple(servers),
    )
    profiles = tuple(_profile(rng, f"net{number}", slower) for number in range(MODELS))
    demands = tuple(
        Demand(model=one.model, slo_us=_slo_us(one), weight=round(rng.uniform(0.28, 0.38), 3))
        for one in profiles
    )
    return Problem(cluster, Profile(models=profiles), demands, PlanOptions())


def _profile(rng: random.Random, name: str, slower: dict[str, tuple[float, float]]) -> ModelProfile:
    total_us = rng.uniform(10_000, 35_000)
    shares = [rng.uniform(0.4, 1.6) for _ in range(BLOCKS)]
    bound_by_memory = [rng.random() for _ in range(BLOCKS)]
    fixed = rng.uniform(0.0, 0.25)
    tables = []
    for gpu, (compute, memory) in slower.items():
        for slices in range(1, 5):
            speed = (1 + SLICE_BONUS * (slices - 1)) / slices
            rows = tuple(
                tuple(
                    round(
                        total_us
                        * share
                        / sum(shares)
                        * _slowed(part, compute, memory)
                        / speed
                        * (fixed + (1 - fixed) * batch),
                        1,
                    )
                    for batch in BATCHES
                )
                for share, part in zip(shares, bound_by_memory, strict=True)
            )
            tables.append(LatencyTable(gpu, slices, BATCHES, rows))
    cuts = tuple(round(10 ** rng.uniform(5.5, 7.0)) for _ in range(BLOCKS - 1))
    return ModelProfile(model=name, cut_bytes=cuts, tables=tuple(tables))


def _slowed(memory_part: float, compute: float, memory: float) -> float:
    return memory_part * memory + (1 - memory_part) * compute


def _slo_us(profile: ModelProfile) -> int:
    table = profile.table("fast", 1)
    assert table is not None
    return int(SLO_OF_FAST * sum(row[0] for row in table.latency_us))
