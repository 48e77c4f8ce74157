"""Plan -> ServedModel: the integer tables and the links that a model's dispatcher reserves on.

Rules
- Times are rounded up to whole microseconds: a reservation may be a little too long, never too short.
- Tables cover every batch size up to the largest that every stage of the pipeline is profiled for and has
  memory for, not the planned one alone. A size between two profiled ones takes the time of the next larger
  profiled one.
- Links "paper": the reference simulator's grouping. Workers of a stage, in worker order, share one uplink and
  one downlink in groups of slices_per_gpu * the larger gpus_per_server of the two neighbouring classes, at
  full speed.
- Links "placed": each server has one uplink and one downlink. Dispatchers do not see each other's
  reservations, so a model plans with its fixed share of a link, and a transfer takes 1 / share of its time on
  the whole link. One table serves a whole hop, so it is made for the slowest sender and receiver of that hop.
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
from planner.rates import transfer_us
from planner.serving import (
    ServedModel,
    ServedPipeline,
    ServedStage,
    ServedWorker,
    WorkerPlace,
    worker_name,
)

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
    return ServedModel(
        model=model,
        slo_us=model_plan.slo_us,
        planned_rps=model_plan.throughput_rps,
        pipelines=tuple(
            _pipeline(model_plan, index, profile, problem.cluster, placed)
            for index in range(len(model_plan.pipelines))
        ),
    )


class _PlacedLinks:
    """Where this model's workers are, and how fast its share of each link is."""

    def __init__(self, plan: Plan, cluster: Cluster, model: str) -> None:
        assert plan.placement is not None
        bandwidth = {server.name: server.bandwidth_gbps for server in cluster.servers}
        shares = {share.server: share for share in plan.placement.link_shares if share.model == model}
        self.up_gbps = {name: bandwidth[name] * share.uplink for name, share in shares.items()}
        self.down_gbps = {name: bandwidth[name] * share.downlink for name, share in shares.items()}
        self.server = {
            (worker.pipeline, worker.stage, worker.worker): worker.server
            for worker in plan.placement.workers
            if worker.model == model
        }

    def hop_gbps(self, pipeline: Pipeline, index: int, hop: int) -> float:
        """Bandwidth of the slowest sender or receiver of a hop."""
        speeds = [self.up_gbps[name] for name in self._servers(pipeline, index, hop)]
        speeds += [self.down_gbps[name] for name in self._servers(pipeline, index, hop + 1)]
        return min(speeds)

    def _servers(self, pipeline: Pipeline, index: int, stage: int) -> set[str]:
        return {self.server[index, stage, worker] for worker in range(pipeline.stages[stage].workers)}


def _pipeline(
    model_plan: ModelPlan, index: int, profile: ModelProfile, cluster: Cluster, placed: _PlacedLinks | None
) -> ServedPipeline:
    pipeline = model_plan.pipelines[index]
    batch_size = pipeline.stages[0].batch_size
    if any(stage.batch_size != batch_size for stage in pipeline.stages):
        raise ValueError(
            f"{model_plan.model}, pipeline {index}: stages of unequal batch size cannot be served yet"
        )
    batches = range(1, _largest_batch(pipeline, profile, cluster) + 1)
    return ServedPipeline(
        batch_size=batch_size,
        stages=tuple(
            ServedStage(
                gpu=stage.gpu,
                slices_per_gpu=stage.slices_per_gpu,
                latency_us=tuple(_whole_us(_latency_us(profile, stage, batch)) for batch in batches),
                workers=_workers(model_plan.model, pipeline, index, position, cluster, placed),
            )
            for position, stage in enumerate(pipeline.stages)
        ),
        transfer_us=tuple(
            tuple(
                _whole_us(transfer_us(profile, pipeline.stages[hop].blocks.end - 1, batch, gbps))
                for batch in batches
            )
            for hop, gbps in enumerate(_hop_bandwidths(pipeline, index, cluster, placed))
        ),
    )


def _hop_bandwidths(
    pipeline: Pipeline, index: int, cluster: Cluster, placed: _PlacedLinks | None
) -> Sequence[float]:
    hops = range(len(pipeline.stages) - 1)
    if placed is not None:
        return [placed.hop_gbps(pipeline, index, hop) for hop in hops]
    return [cluster.bandwidth_gbps(pipeline.stages[hop].gpu, pipeline.stages[hop + 1].gpu) for hop in hops]


def _whole_us(time_us: float) -> int:
    # A sum of floats may lie a hair above the whole number that it means.
    return math.ceil(time_us - 1e-6)


def _largest_batch(pipeline: Pipeline, profile: ModelProfile, cluster: Cluster) -> int:
    """The largest batch of every stage's table and memory; at least the planned one."""
    largest = min(
        min(
            _table(profile, stage).batch_sizes[-1],
            largest_batch(profile, cluster.gpu_class(stage.gpu), stage.slices_per_gpu, stage.blocks),
        )
        for stage in pipeline.stages
    )
    return max(largest, pipeline.stages[0].batch_size)


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
