"""Time and throughput of stages and hops: the one place that holds the paper's arithmetic.

Rules
- Latencies are microseconds for a whole batch; rates are frames/s.
- A stage takes the sum of its blocks plus the profile's per-stage overhead.
- A hop moves `batch` frames: bytes * 8 / bandwidth, plus the profile's per-hop and per-byte overhead.
- All workers of a server may send at once: one worker plans with 1 / (slices * GPUs per server) of the link.
- First input and last output are not counted: they depend on the client, not on the plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from planner.cluster import Cluster
from planner.plan import BlockRange, Pipeline, Stage
from planner.problem import Demand, PlanOptions
from planner.profile import ModelProfile

MIN_STAGE_US = 1.0
"""No stage is planned faster than this, so that a block measured as 0 us does not make its GPU
infinitely fast.
"""


def margin_of(demand: Demand, options: PlanOptions) -> float:
    """The share of the SLO that the plan leaves unused for this model."""
    return options.slo_margin if demand.slo_margin is None else demand.slo_margin


def budget_us(demand: Demand, options: PlanOptions) -> int:
    """Time that a frame may take: the SLO less its margin, the margin rounded to a whole microsecond."""
    return demand.slo_us - round(margin_of(demand, options) * demand.slo_us)


def batch_build_us(batch_size: int, factor: float, rate_rps: float | None) -> float:
    """How long the first frame of a batch is assumed to wait for the others; 0 without a rate."""
    if batch_size == 1 or not rate_rps:
        return 0.0
    return factor * 1e6 * (batch_size - 1) / rate_rps


def timed_stage(
    profile: ModelProfile, blocks: BlockRange, gpu: str, slices_per_gpu: int, batch_size: int, workers: int
) -> Stage:
    """A stage with the latency that the profile gives it."""
    return Stage(
        blocks=blocks,
        gpu=gpu,
        slices_per_gpu=slices_per_gpu,
        batch_size=batch_size,
        workers=workers,
        latency_us=stage_latency_us(profile, blocks.start, blocks.end, gpu, slices_per_gpu, batch_size),
    )


def stage_latency_us(
    profile: ModelProfile, start: int, end: int, gpu: str, slices_per_gpu: int, batch_size: int
) -> float:
    """A batch through blocks [start, end) on one worker. Raises KeyError where it was not profiled."""
    table = profile.table(gpu, slices_per_gpu)
    if table is None or batch_size not in table.batch_sizes:
        raise KeyError(
            f"{profile.model} is not profiled on {gpu} in {slices_per_gpu} slices at batch {batch_size}"
        )
    column = table.batch_sizes.index(batch_size)
    blocks_us = sum(row[column] for row in table.latency_us[start:end])
    return max(MIN_STAGE_US, profile.overheads.stage_us + blocks_us)


def transfer_us(profile: ModelProfile, cut: int, batch_size: int, bandwidth_gbps: float) -> float:
    """`batch_size` frames across the cut after block `cut` over a link of `bandwidth_gbps`."""
    bytes_moved = batch_size * profile.cut_bytes[cut]
    on_wire = bytes_moved * 8 / (bandwidth_gbps * 1e9) * 1e6
    return on_wire + profile.overheads.hop_us + bytes_moved * profile.overheads.hop_us_per_byte


def link_rate_rps(hop_us: float, batch_size: int, slices_per_gpu: int, gpus_per_server: int) -> float:
    """Frames/s that one worker's share of its server's link carries when a batch takes `hop_us`."""
    if hop_us <= 0:
        return float("inf")
    return 1e6 * batch_size / hop_us / slices_per_gpu / gpus_per_server


def worker_rates_rps(
    cluster: Cluster, stages: Sequence[Stage], hops_us: Sequence[float]
) -> tuple[float, ...]:
    """Frames/s of one worker of each stage: the least of its compute, its link in and its link out."""
    rates = []
    for index, stage in enumerate(stages):
        rate = 1e6 * stage.batch_size / max(MIN_STAGE_US, stage.latency_us)
        for hop in (index - 1, index):
            if 0 <= hop < len(hops_us):
                share = cluster.gpus_per_server(stage.gpu)
                # A hop carries the sender's batch.
                batch_size = stages[hop].batch_size
                rate = min(rate, link_rate_rps(hops_us[hop], batch_size, stage.slices_per_gpu, share))
        rates.append(rate)
    return tuple(rates)


def hops_us(profile: ModelProfile, cluster: Cluster, stages: Sequence[Stage]) -> tuple[float, ...]:
    """Transfer time after each stage but the last, for the sender's whole batch."""
    return tuple(
        transfer_us(
            profile,
            sender.blocks.end - 1,
            sender.batch_size,
            cluster.bandwidth_gbps(sender.gpu, receiver.gpu),
        )
        for sender, receiver in itertools.pairwise(stages)
    )


def assemble(profile: ModelProfile, cluster: Cluster, stages: Sequence[Stage]) -> Pipeline:
    """The pipeline of these stages, hops and throughput computed; the stages' latencies are taken as they
    are.
    """
    hops = hops_us(profile, cluster, stages)
    rates = worker_rates_rps(cluster, stages, hops)
    throughput = min(stage.workers * rate for stage, rate in zip(stages, rates, strict=True))
    return Pipeline(stages=tuple(stages), transfer_us=hops, throughput_rps=throughput)
