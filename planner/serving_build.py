"""Plan -> ServedModel: the integer tables and the links that a model's dispatcher reserves on.

Rules
- Times are rounded up to whole microseconds: a reservation may be a little too long, never too short.
- A stage's table covers every batch size up to the largest that it is profiled for and has memory for, as
  every plan with such a place has it; those of the hops end where the pipeline's shortest one does. A size
  between two profiled ones takes the time of the next larger profiled one.
- Links "paper": the reference simulator's grouping. Workers of a stage, in worker order, share one uplink and
  one downlink in groups of slices_per_gpu * the larger gpus_per_server of the two neighbouring classes, at
  full speed.
- Links "placed": each server has one uplink and one downlink. Dispatchers do not see each other's
  reservations, so a model keeps to its fixed share of a link: the link counts as taken for 1 / share of a
  transfer's time, but the transfer itself goes at full speed. One table serves a whole hop, so it is made for
  the slowest sender and receiver of that hop.
- The way in and out, where it is counted, is over the entry's uplink and downlink in both cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from planner.cluster import Cluster
from planner.memory import largest_batch
from planner.plan import ModelPlan, Pipeline, Plan, Stage
from planner.problem import Problem
from planner.profile import LatencyTable, ModelProfile
from planner.rates import FrameEnds, ends_of, transfer_us
from planner.serving import (
    ServedEnds,
    ServedLink,
    ServedModel,
    ServedPipeline,
    ServedStage,
    ServedWorker,
    WorkerPlace,
    worker_name,
)
from planner.serving_ends import served_ends, served_entry, whole_us

Links = Literal["paper", "placed"]


def served_model(plan: Plan, problem: Problem, model: str, links: Links = "paper") -> ServedModel:
    """What the dispatcher of `model` must know. Raises KeyError (no such model), ValueError (plan without
    placement).
    """
    model_plan = plan.model(model)
    profile = problem.profile.model(model)
    if links == "placed" and plan.placement is None:
        raise ValueError(f"the plan of {model} has no placement; fill it with planner.placing.place")
    placed = _PlacedLinks(plan, problem.cluster, model) if links == "placed" else None
    demand = next(demand for demand in problem.demands if demand.model == model)
    ends = ends_of(profile, demand, problem.options)
    pipelines = tuple(
        _pipeline(model_plan, index, profile, problem.cluster, placed, ends)
        for index in range(len(model_plan.pipelines))
    )
    return ServedModel(
        model=model,
        slo_us=model_plan.slo_us,
        planned_rps=model_plan.throughput_rps,
        pipelines=pipelines,
        entry=None if ends is None else served_entry(profile, demand, problem.cluster, pipelines),
        links=() if placed is None else placed.links,
        streams=demand.streams,
    )


class _PlacedLinks:
    """Where this model's workers are, how fast their links are, and its shares of those."""

    def __init__(self, plan: Plan, cluster: Cluster, model: str) -> None:
        assert plan.placement is not None
        self.gbps = {server.name: server.bandwidth_gbps * cluster.carried_share for server in cluster.servers}
        mine = [share for share in plan.placement.link_shares if share.model == model]
        found = [(f"{one.server}.up", one.uplink) for one in mine]
        found += [(f"{one.server}.down", one.downlink) for one in mine]
        self.links = tuple(ServedLink(name, share) for name, share in found if 0 < share < 1)
        self.server = {
            (worker.pipeline, worker.stage, worker.worker): worker.server
            for worker in plan.placement.workers
            if worker.model == model
        }

    def hop_gbps(self, pipeline: Pipeline, index: int, hop: int) -> float:
        """Bandwidth of the slowest sender or receiver of a hop."""
        return min(self.stage_gbps(pipeline, index, hop), self.stage_gbps(pipeline, index, hop + 1))

    def stage_gbps(self, pipeline: Pipeline, index: int, stage: int) -> float:
        """Bandwidth of the slowest server of a stage."""
        return min(self.gbps[name] for name in self._servers(pipeline, index, stage))

    def _servers(self, pipeline: Pipeline, index: int, stage: int) -> set[str]:
        return {self.server[index, stage, worker] for worker in range(pipeline.stages[stage].workers)}


def _pipeline(
    model_plan: ModelPlan,
    index: int,
    profile: ModelProfile,
    cluster: Cluster,
    placed: _PlacedLinks | None,
    ends: FrameEnds | None,
) -> ServedPipeline:
    pipeline = model_plan.pipelines[index]
    batch_size = pipeline.stages[0].batch_size
    if any(stage.batch_size != batch_size for stage in pipeline.stages):
        raise ValueError(
            f"{model_plan.model}, pipeline {index}: stages of unequal batch size cannot be served yet"
        )
    largest = [_largest_batch(stage, profile, cluster) for stage in pipeline.stages]
    batches = range(1, min(largest) + 1)
    return ServedPipeline(
        batch_size=batch_size,
        stages=tuple(
            ServedStage(
                gpu=stage.gpu,
                slices_per_gpu=stage.slices_per_gpu,
                latency_us=tuple(
                    whole_us(_latency_us(profile, stage, batch)) for batch in range(1, largest[position] + 1)
                ),
                workers=_workers(model_plan.model, pipeline, index, position, cluster, placed),
            )
            for position, stage in enumerate(pipeline.stages)
        ),
        transfer_us=tuple(
            tuple(
                whole_us(transfer_us(profile, pipeline.stages[hop].blocks.end - 1, batch, gbps))
                for batch in batches
            )
            for hop, gbps in enumerate(_hop_bandwidths(pipeline, index, cluster, placed))
        ),
        ends=None if ends is None else _served_ends(ends, pipeline, index, cluster, placed, batches),
    )


def _served_ends(
    ends: FrameEnds,
    pipeline: Pipeline,
    index: int,
    cluster: Cluster,
    placed: _PlacedLinks | None,
    batches: Sequence[int],
) -> ServedEnds:
    first, last = pipeline.stages[0].gpu, pipeline.stages[-1].gpu
    entry_gbps = cluster.carried_share * (cluster.entry.bandwidth_gbps or math.inf)
    first_gbps, last_gbps = cluster.bandwidth_gbps(first, first), cluster.bandwidth_gbps(last, last)
    if placed is not None:
        first_gbps = placed.stage_gbps(pipeline, index, 0)
        last_gbps = placed.stage_gbps(pipeline, index, len(pipeline.stages) - 1)
    return served_ends(ends, batches, entry_gbps, first_gbps, last_gbps, cluster.cores_per_server(last))


def _hop_bandwidths(
    pipeline: Pipeline, index: int, cluster: Cluster, placed: _PlacedLinks | None
) -> Sequence[float]:
    hops = range(len(pipeline.stages) - 1)
    if placed is not None:
        return [placed.hop_gbps(pipeline, index, hop) for hop in hops]
    return [cluster.bandwidth_gbps(pipeline.stages[hop].gpu, pipeline.stages[hop + 1].gpu) for hop in hops]


def _largest_batch(stage: Stage, profile: ModelProfile, cluster: Cluster) -> int:
    """The largest batch of a stage's table and memory; at least the planned one."""
    gpu_class = cluster.gpu_class(stage.gpu)
    fitting = largest_batch(profile, gpu_class, stage.slices_per_gpu, stage.blocks)
    return max(min(_table(profile, stage).batch_sizes[-1], fitting), stage.batch_size)


def _table(profile: ModelProfile, stage: Stage) -> LatencyTable:
    table = profile.table(stage.gpu, stage.slices_per_gpu)
    if table is None:
        raise ValueError(f"{profile.model} is not profiled on {stage.gpu} in {stage.slices_per_gpu} slices")
    return table


def _latency_us(profile: ModelProfile, stage: Stage, batch: int) -> float:
    table = _table(profile, stage)
    column = next(index for index, size in enumerate(table.batch_sizes) if size >= batch)
    rows = table.latency_us[stage.blocks.start : stage.blocks.end]
    return sum(row[column] for row in rows) + profile.overheads.stage_us


def _workers(
    model: str, pipeline: Pipeline, index: int, position: int, cluster: Cluster, placed: _PlacedLinks | None
) -> tuple[ServedWorker, ...]:
    prefix = f"{model}.p{index}.s{position}"
    workers = []
    for worker in range(pipeline.stages[position].workers):
        if placed is not None:
            server = placed.server[index, position, worker]
            uplink, downlink = f"{server}.up", f"{server}.down"
        else:
            server = f"{prefix}.host{worker // _group_size(pipeline, position, position, cluster)}"
            uplink = f"{prefix}.up{worker // _group_size(pipeline, position, position + 1, cluster)}"
            downlink = f"{prefix}.down{worker // _group_size(pipeline, position, position - 1, cluster)}"
        workers.append(
            ServedWorker(
                name=worker_name(model, WorkerPlace(index, position, worker)),
                server=server,
                uplink=uplink,
                downlink=downlink,
            )
        )
    return tuple(workers)


def _group_size(pipeline: Pipeline, position: int, neighbour: int, cluster: Cluster) -> int:
    """Workers of a stage that share the link towards `neighbour`; the end of a pipeline has no neighbour."""
    stage = pipeline.stages[position]
    other = pipeline.stages[neighbour] if 0 <= neighbour < len(pipeline.stages) else stage
    return stage.slices_per_gpu * max(cluster.gpus_per_server(stage.gpu), cluster.gpus_per_server(other.gpu))
