"""Every feasible pipeline of one model, enumerated: the columns of the plan's MILP.

A pipeline is feasible when  sum of stage latencies + sum of hops + batch building <= SLO - margin, every
stage is profiled at its batch size, and fits its worker's part of the GPU's memory.

Rules
- Columns are parallel numpy arrays, one row per pipeline, padded to `max_stages`; no object per pipeline.
- Nothing feasible is left out here. What may be dropped, and why that loses nothing, is planner.dominance's
  and planner.prices' business.
- Order is by (stages, batch, cuts, workers): the same input gives the same rows.
- No sums over long axes and no matrix products: their last bits depend on the processor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.cluster import Cluster, GpuClass
from planner.memory import largest_batch
from planner.plan import BlockRange
from planner.problem import Demand, PlanOptions
from planner.profile import LatencyTable, ModelProfile
from planner.rates import (
    KEPT_DEVIATIONS,
    MIN_STAGE_US,
    FrameEnds,
    LinkRoom,
    batch_build_us,
    block_deviations_us,
    block_errors_us,
    budget_us,
    end_rate_rps,
    ends_of,
    planned_ends,
)
from planner.usable import ENDLESS_FRAMES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CELLS_PER_CHUNK = 2_000_000
"""Latencies computed at once: bounds the memory, not the result."""
MAX_CELLS = 400_000_000
"""More combinations of cuts and workers than this are refused, with advice, rather than tried for hours."""
LATENCY_TOLERANCE_US = 1e-6
_Kind = tuple[int, LatencyTable, int]


class TooManyPipelines(ValueError):
    """The combinations of cuts and workers cannot be enumerated; the message says what to lower."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Pipelines of one model. Per stage, padded on the right: `gpu` -1, `slices` 1, `rate_rps` infinite,
    others 0.

    gpu: index into the cluster's classes. rate_rps: frames/s of one worker. latency_us: all stages and hops
    of one batch, and what is kept for their variation (rates.variation_us); batch building excluded.
    """

    gpu: Ints
    slices: Ints
    start: Ints
    end: Ints
    batch: Ints
    rate_rps: Floats
    latency_us: Floats
    waiting_us: Floats
    """For frames of the batch and of the bunch (rates.batch_build_us, rates.bunch_us)."""

    def __len__(self) -> int:
        return len(self.gpu)

    @property
    def depth(self) -> int:
        """Most stages of any row."""
        return self.gpu.shape[1]

    def select(self, rows: npt.ArrayLike) -> Columns:
        """These rows, in this order."""
        index = np.asarray(rows)
        return replace(self, **{name: getattr(self, name)[index] for name in self.__dataclass_fields__})

    def slowest_us(self) -> Floats:
        """What a batch takes of a worker of the stage that it takes longest of, links included."""
        stages = np.where(self.gpu >= 0, 1e6 * self.batch / self.rate_rps, 0.0)
        slowest: Floats = stages.max(axis=1, initial=0.0)
        return slowest

    def gpus_per_rps(self, class_count: int) -> Floats:
        """[row, class]: GPUs of a class that one frame/s through the pipeline keeps busy."""
        busy = np.zeros((len(self), class_count))
        for stage in range(self.depth):
            rows = np.nonzero(self.gpu[:, stage] >= 0)[0]
            share = 1.0 / (self.rate_rps[rows, stage] * self.slices[rows, stage])
            busy[rows, self.gpu[rows, stage]] += share
        return busy


@dataclass(frozen=True, eq=False)
class _KindEnds:
    """Per kind of worker: time in and out of a pipeline that begins or ends with it, and the frames/s that
    its share of its server's link and cores then allows it (`rps[is first, is last]`).
    """

    in_us: Floats
    out_us: Floats
    rps: dict[tuple[bool, bool], Floats]
    servers: Ints
    """Of the kind's class."""
    room: LinkRoom | None = None

    def usable(self, frame_us: Floats, kind: Ints) -> Floats:
        """rates.FrameEnds.usable, element by element."""
        shares = np.ones(len(frame_us))
        if self.room is None:
            return shares
        servers = self.servers[kind]
        for count in np.unique(servers):
            # Of what may wait as it likes, nothing is asked.
            near = (servers == count) & (frame_us * ENDLESS_FRAMES > self.room.wait_us * math.sqrt(count))
            times, places = np.unique(frame_us[near], return_inverse=True)
            shares[near] = np.array([self.room.usable(float(us), int(count)) for us in times])[places]
        return shares


@dataclass(frozen=True, eq=False)
class _Workers:
    """Kinds of workers that a stage may use: class, slices and batch, with latency[kind, start, end]."""

    gpu: Ints
    slices: Ints
    batch: Ints
    gpus_per_server: Ints
    latency_us: Floats
    variance_us2: Floats | None
    """Of latency_us, where it varies or may be wrong."""
    hop_gbps: Floats
    ends: _KindEnds


@dataclass(frozen=True, eq=False)
class _Links:
    """Per class: GPUs that share a server's links, and its slowest link; infinite for a class without
    servers.
    """

    gpus_per_server: Ints
    gbps: Floats

    @staticmethod
    def of(cluster: Cluster) -> _Links:
        names = [gpu_class.name for gpu_class in cluster.gpu_classes]
        slowest = [
            min((server.bandwidth_gbps for server in cluster.servers_of(name)), default=math.inf)
            for name in names
        ]
        return _Links(
            gpus_per_server=np.array([cluster.gpus_per_server(name) for name in names], dtype=np.int64),
            gbps=np.array(slowest, dtype=np.float64) * cluster.carried_share,
        )


def enumerate_columns(
    profile: ModelProfile,
    cluster: Cluster,
    demand: Demand,
    options: PlanOptions,
    max_slices: int | None = None,
) -> Columns:
    """All feasible pipelines of a model. `max_slices` 1 keeps to whole GPUs. Raises TooManyPipelines."""
    depth = min(options.max_stages, profile.block_count)
    kinds = _worker_kinds(profile, cluster, max_slices)
    links = _Links.of(cluster)
    ends = ends_of(profile, demand, options)
    groups = [
        _tabulate(profile, cluster, links, group, ends, options)
        for group in _batch_groups(kinds, options.per_stage_batch)
    ]
    parts = [
        part
        for stages in range(1, depth + 1)
        for workers in groups
        for part in _enumerate(profile, demand, options, stages, workers)
    ]
    return _concatenate(parts, depth)


def _worker_kinds(profile: ModelProfile, cluster: Cluster, max_slices: int | None) -> list[_Kind]:
    """(class index, table, batch size) of every kind of worker that the cluster has and the profile knows."""
    kinds = []
    for index, gpu_class in enumerate(cluster.gpu_classes):
        most = gpu_class.max_slices_per_gpu
        most = most if max_slices is None else min(max_slices, most)
        if cluster.gpu_count(gpu_class.name) == 0:
            continue
        for table in sorted(profile.tables, key=lambda t: t.slices_per_gpu):
            if table.gpu == gpu_class.name and table.slices_per_gpu <= most:
                kinds += [(index, table, batch) for batch in table.batch_sizes]
    return kinds


def _batch_groups(kinds: Sequence[_Kind], per_stage_batch: bool) -> Iterator[list[_Kind]]:
    """Kinds that may meet in one pipeline: those of one batch size, or all."""
    if per_stage_batch:
        yield list(kinds)
        return
    for batch in sorted({batch for _, _, batch in kinds}):
        yield [kind for kind in kinds if kind[2] == batch]


def _enumerate(
    profile: ModelProfile, demand: Demand, options: PlanOptions, stages: int, workers: _Workers
) -> Iterator[Columns]:
    kinds, blocks = len(workers.gpu), profile.block_count
    cut_count = math.comb(blocks - 1, stages - 1)
    if cut_count * kinds**stages > MAX_CELLS:
        raise TooManyPipelines(
            f"{profile.model}: {cut_count * kinds**stages:.1e} combinations of cuts and workers for {stages} "
            f"stages of {blocks} blocks; lower max_stages, the number of blocks, batch sizes or slices"
        )
    every = itertools.combinations(range(1, blocks), stages - 1)
    step = max(1, CELLS_PER_CHUNK // max(1, kinds**stages))
    while chunk := list(itertools.islice(every, step)):
        cuts = np.array(chunk, dtype=np.int64).reshape(len(chunk), stages - 1)
        yield _feasible(profile, demand, options, workers, cuts)


def _tabulate(
    profile: ModelProfile,
    cluster: Cluster,
    links: _Links,
    kinds: list[_Kind],
    ends: FrameEnds | None,
    options: PlanOptions,
) -> _Workers:
    gpu = np.array([index for index, _, _ in kinds], dtype=np.int64)
    return _Workers(
        gpu=gpu,
        slices=np.array([table.slices_per_gpu for _, table, _ in kinds], dtype=np.int64),
        batch=np.array([batch for _, _, batch in kinds], dtype=np.int64),
        gpus_per_server=links.gpus_per_server[gpu],
        latency_us=np.array([_range_latencies(profile, cluster.gpu_classes[i], t, b) for i, t, b in kinds]),
        variance_us2=_variances(profile, kinds, options),
        hop_gbps=np.minimum(links.gbps[gpu][:, None], links.gbps[gpu][None, :]),
        ends=_kind_ends(cluster, kinds, ends),
    )


def _kind_ends(cluster: Cluster, kinds: list[_Kind], ends: FrameEnds | None) -> _KindEnds:
    """See rates.planned_ends and rates.end_rate_rps."""
    count = len(kinds)
    free = {(first, last): np.full(count, np.inf) for first in (True, False) for last in (True, False)}
    servers = [len(cluster.servers_of(cluster.gpu_classes[index].name)) for index, _, _ in kinds]
    room = None if ends is None else ends.room
    found = _KindEnds(np.zeros(count), np.zeros(count), free, np.array(servers, dtype=np.int64), room)
    if ends is None:
        return found
    for k, (index, table, batch) in enumerate(kinds):
        gpu = cluster.gpu_classes[index].name
        way = planned_ends(cluster, ends, (gpu, batch), (gpu, batch))
        found.in_us[k] = way.ingress_us + way.prepare_us
        found.out_us[k] = way.finish_us + way.egress_us
        for at, rps in found.rps.items():
            rps[k] = end_rate_rps(cluster, ends, gpu, table.slices_per_gpu, *at)
    return found


def _range_latencies(profile: ModelProfile, gpu_class: GpuClass, table: LatencyTable, batch: int) -> Floats:
    """[start, end]: latency of blocks [start, end), infinite where they do not fit the memory."""
    blocks = profile.block_count
    column = table.batch_sizes.index(batch)
    per_block = np.array([row[column] for row in table.latency_us], dtype=np.float64)
    latency = np.full((blocks + 1, blocks + 1), np.inf)
    for start in range(blocks):
        total = np.cumsum(per_block[start:]) + profile.overheads.stage_us
        latency[start, start + 1 :] = np.maximum(MIN_STAGE_US, total)
        if gpu_class.memory_bytes is not None:
            for end in range(start + 1, blocks + 1):
                most = largest_batch(profile, gpu_class, table.slices_per_gpu, BlockRange(start, end))
                if most < batch:
                    latency[start, end] = np.inf
    return latency


def _variances(profile: ModelProfile, kinds: list[_Kind], options: PlanOptions) -> Floats | None:
    """[kind, start, end]: variance of the latency of blocks [start, end), as in rates.variation_us; None
    where none varies or the plan is for throughput alone.
    """
    if options.loss_share is None:
        return None
    blocks = profile.block_count
    found = np.zeros((len(kinds), blocks + 1, blocks + 1))
    for k, (_, table, batch) in enumerate(kinds):
        jitter = np.array(block_deviations_us(table, batch, options.expect))
        errors = np.array(block_errors_us(table, batch, options.expect))
        for start in range(blocks):
            found[k, start, start + 1 :] = np.cumsum(jitter[start:]) ** 2 + np.cumsum(errors[start:] ** 2)
    return found if found.any() else None


def _hop_us(profile: ModelProfile, workers: _Workers, cut_after: Ints) -> Floats:
    """[cut, sender kind, receiver kind]: time of the sender's whole batch across the cut (see
    rates.transfer_us).
    """
    bytes_moved = np.array(profile.cut_bytes, dtype=np.float64)[cut_after, None] * workers.batch
    fixed = profile.overheads.hop_us + bytes_moved * profile.overheads.hop_us_per_byte
    on_wire = bytes_moved[:, :, None] * 8 / (workers.hop_gbps * 1e9) * 1e6
    return np.asarray(on_wire + fixed[:, :, None])


def _feasible(
    profile: ModelProfile, demand: Demand, options: PlanOptions, workers: _Workers, cuts: Ints
) -> Columns:
    """The feasible ones among all kinds of workers at these cuts. Axes: cut, then one per stage."""
    stages = cuts.shape[1] + 1
    kinds = len(workers.gpu)
    edges = np.concatenate(
        [np.zeros((len(cuts), 1), np.int64), cuts, np.full((len(cuts), 1), profile.block_count)], axis=1
    )
    stage_us = [workers.latency_us[:, edges[:, i], edges[:, i + 1]].T for i in range(stages)]
    hop_us = [_hop_us(profile, workers, edges[:, i] - 1) for i in range(1, stages)]
    total = np.zeros((len(cuts), *(1,) * stages))
    for i in range(stages):
        total = total + stage_us[i].reshape(len(cuts), *_axes(stages, kinds, i))
    for i in range(stages - 1):
        total = total + hop_us[i].reshape(len(cuts), *_axes(stages, kinds, i, i + 1))
    total = total + workers.ends.in_us.reshape(1, *_axes(stages, kinds, 0))
    total = total + workers.ends.out_us.reshape(1, *_axes(stages, kinds, stages - 1))
    if workers.variance_us2 is not None:
        variances = [workers.variance_us2[:, edges[:, i], edges[:, i + 1]].T for i in range(stages)]
        variance = np.zeros((len(cuts), *(1,) * stages))
        for i in range(stages):
            variance = variance + variances[i].reshape(len(cuts), *_axes(stages, kinds, i))
        total = total + KEPT_DEVIATIONS * np.sqrt(variance)
    building = np.array(
        [
            batch_build_us(int(b), options.batch_build_factor, demand.batch_build_rps, demand.flow.bunch)
            for b in workers.batch
        ]
    )
    waiting = building.reshape(1, *_axes(stages, kinds, 0)) + _bunch_us(workers, stage_us, demand)
    allowed = total + waiting <= budget_us(demand, options) + LATENCY_TOLERANCE_US
    for i in range(stages - 1):
        # A stage may split the batch of the one before it; it never waits to join several.
        splits = workers.batch[:, None] % workers.batch[None, :] == 0
        allowed &= splits.reshape(1, *_axes(stages, kinds, i, i + 1))
    row, *kind = np.nonzero(allowed)
    rate = _rates(workers, stage_us, hop_us, row, kind)
    return Columns(
        gpu=np.stack([workers.gpu[k] for k in kind], axis=1),
        slices=np.stack([workers.slices[k] for k in kind], axis=1),
        start=edges[row][:, :-1],
        end=edges[row][:, 1:],
        batch=np.stack([workers.batch[k] for k in kind], axis=1),
        rate_rps=rate,
        latency_us=total[(row, *kind)],
        waiting_us=np.broadcast_to(waiting, total.shape)[(row, *kind)],
    )


def _bunch_us(workers: _Workers, stage_us: list[Floats], demand: Demand) -> Floats:
    """rates.bunch_us of all kinds of workers. Axes: cut, then one per stage."""
    bunch, rate = demand.flow.bunch, demand.batch_build_rps
    stages, kinds, cuts = len(stage_us), len(workers.gpu), len(stage_us[0])
    if not rate or bunch <= workers.batch.min():
        return np.zeros((1,) * (stages + 1))
    slowest = np.zeros((cuts, *(1,) * stages))
    for i, us in enumerate(stage_us):
        slowest = np.maximum(slowest, us.reshape(cuts, *_axes(stages, kinds, i)))
    batch = workers.batch.reshape(1, *_axes(stages, kinds, 0))
    return np.asarray(np.maximum(0.0, bunch - batch) * np.minimum(slowest / batch, 1e6 / rate))


def _axes(stages: int, kinds: int, *used: int) -> tuple[int, ...]:
    """Shape with an axis of length `kinds` for the stages in `used` and 1 for the others."""
    return tuple(kinds if stage in used else 1 for stage in range(stages))


def _rates(
    workers: _Workers, stage_us: list[Floats], hop_us: list[Floats], row: Ints, kind: Sequence[Ints]
) -> Floats:
    """Frames/s of one worker per stage (see rates.worker_rates_rps)."""
    rates = [1e6 * workers.batch[k] / us[row, k] for k, us in zip(kind, stage_us, strict=True)]
    for hop, us in enumerate(hop_us):
        sender, receiver = kind[hop], kind[hop + 1]
        with np.errstate(divide="ignore"):  # nothing to move: no limit
            whole_link = 1e6 * workers.batch[sender] / us[row, sender, receiver]
        for stage in (hop, hop + 1):
            share = whole_link / workers.slices[kind[stage]] / workers.gpus_per_server[kind[stage]]
            frame_us = us[row, sender, receiver] / workers.batch[sender]
            rates[stage] = np.minimum(rates[stage], share * workers.ends.usable(frame_us, kind[stage]))
    for stage in {0, len(rates) - 1}:
        limit = workers.ends.rps[stage == 0, stage == len(rates) - 1]
        rates[stage] = np.minimum(rates[stage], limit[kind[stage]])
    return np.stack(rates, axis=1)


def _concatenate(parts: Sequence[Columns], depth: int) -> Columns:
    """All parts under each other, padded to `depth` stages."""
    padding = {"gpu": -1, "slices": 1, "start": 0, "end": 0, "batch": 0, "rate_rps": np.inf}
    stacked: dict[str, npt.NDArray[Any]] = {}
    for name, filler in padding.items():
        kind: type = np.float64 if name == "rate_rps" else np.int64
        blocks: list[npt.NDArray[Any]] = [np.zeros((0, depth), dtype=kind)]
        for part in parts:
            block: npt.NDArray[Any] = np.full((len(part), depth), filler, dtype=kind)
            block[:, : part.depth] = getattr(part, name)
            blocks.append(block)
        stacked[name] = np.concatenate(blocks)
    latency, waiting = (
        np.concatenate([np.zeros(0), *(getattr(part, name) for part in parts)])
        for name in ("latency_us", "waiting_us")
    )
    return Columns(latency_us=latency, waiting_us=waiting, **stacked)
