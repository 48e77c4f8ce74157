"""A plan for a fleet, made small and slow enough to be served on one machine without its GPUs.

Rules
- Pipelines, cuts, batch sizes, slices and names of Triton models stay: what is loaded is the plan's graph.
- Every class runs `emulated` (real tensors on the real way, workers held for the profiled time) or `cpu`
  (the real programs, at whatever speed this machine has; answers are the model's own).
- Servers without work are left out; those that remain are on loopback, on ports of their own.
- Files that the fleet's hosts have, certificates and the stubs' environment, are not asked for.
- Executor options are the default ones: CUDA graphs and reduced precision are a GPU's.
- `slower` stretches all times alike, SLOs included, so that a laptop keeps up with what GPUs would do.
- A rehearsal says how a plan behaves, not how good it is: objective and bound stay those of the fleet.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from planner.cascades.data import PlannedCascade
from planner.deployment import (
    ClusterSpec,
    Deployment,
    EntrySpec,
    ExecutorOptionsSpec,
    ServerGroupSpec,
    ServerSpec,
)
from planner.placing import place
from planner.plan import ModelPlan, Pipeline, Plan, PlannedEnds, Stage
from planner.profile import LatencyTable, ModelProfile, Profile

EXECUTORS = ("emulated", "cpu")
LOOPBACK = "127.0.0.1"
_OPTIONS = ExecutorOptionsSpec()


class RehearsalFault(ValueError):
    """A rehearsal that cannot be: the message names the option."""


@dataclass(frozen=True)
class Rehearsal:
    """How to rehearse. workers_per_pool: at most so many workers of each stage; None: all of the plan's."""

    executor: str = "emulated"
    workers_per_pool: int | None = None
    slower: float = 1.0

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise RehearsalFault(f"--rehearse: {self.executor!r} is not one of {', '.join(EXECUTORS)}")
        if self.workers_per_pool is not None and self.workers_per_pool < 1:
            raise RehearsalFault(f"--workers-per-pool: {self.workers_per_pool} must be at least 1")
        if not (math.isfinite(self.slower) and self.slower > 0):
            raise RehearsalFault(f"--slower: {self.slower} is not a number above 0")


def rehearsed(
    deployment: Deployment, profile: Profile, plan: Plan, how: Rehearsal
) -> tuple[Deployment, Profile, Plan]:
    """The three as they are for a rehearsal on this machine; the plan is placed.

    The plan must fit the others (checks.check_pipelines).
    """
    slow = how.slower
    local = _local(deployment, how)
    models = tuple(_model_plan(model, how) for model in plan.models)
    small = replace(
        plan,
        planner=f"{plan.planner}, rehearsed",
        models=models,
        cascades=tuple(_cascade_plan(cascade, models, how) for cascade in plan.cascades),
        placement=plan.placement if how.workers_per_pool is None else None,
        shards=(),
    )
    if small.placement is None:
        small = replace(small, placement=place(small, local.to_cluster()))
    assert small.placement is not None
    used = {seat.server for seat in small.placement.workers}
    known = deployment.with_costs(profile)
    stretched = Profile(models=tuple(_stretched_profile(model, slow) for model in known.models))
    return _only(local, used), stretched, small


def _local(deployment: Deployment, how: Rehearsal) -> Deployment:
    """All servers on this machine, every class with the rehearsal's executor, times stretched."""
    spec = deployment.cluster
    named = iter(deployment.to_cluster().servers)
    groups = []
    for group in spec.groups:
        count = group.count or len(group.servers)
        gbps = (group.bandwidth_gbps or spec.bandwidth_gbps) / how.slower
        servers = tuple(
            ServerSpec(name=server.name, host=LOOPBACK) for server in itertools.islice(named, count)
        )
        groups.append(
            group.model_copy(
                update={"count": None, "host": LOOPBACK, "servers": servers, "bandwidth_gbps": gbps}
            )
        )
    classes = tuple(
        each.model_copy(update={"executor": how.executor, "stated": None}) for each in spec.gpu_classes
    )
    models = tuple(
        model.model_copy(
            update={
                "slo_ms": model.slo_ms * how.slower,
                "rate_rps": _per(model.rate_rps, how),
                "executor_options": _OPTIONS,
            }
        )
        for model in deployment.models
    )
    clients_gbps = spec.entry.client_bandwidth_gbps
    entry = EntrySpec(
        bandwidth_gbps=(spec.entry.bandwidth_gbps or spec.bandwidth_gbps) / how.slower,
        client_bandwidth_gbps=None if clients_gbps is None else clients_gbps / how.slower,
        cores=spec.entry.cores,
    )
    cluster = spec.model_copy(
        update={"entry": entry, "entries": (), "gpu_classes": classes, "groups": tuple(groups)},
    )
    here: Mapping[str, None] = {"tls": None, "execution_env": None, "leases": None}
    cascades = tuple(
        each.model_copy(update={"slo_ms": each.slo_ms * how.slower, "rate_rps": _per(each.rate_rps, how)})
        for each in deployment.cascades
    )
    return deployment.model_copy(update={"cluster": cluster, "models": models, "cascades": cascades, **here})


def _only(deployment: Deployment, used: set[str]) -> Deployment:
    """Without the servers that have no work: they would need ports and nothing else."""
    spec = deployment.cluster
    groups: list[ServerGroupSpec] = []
    for group in spec.groups:
        servers = tuple(server for server in group.servers if server.name in used)
        if servers:
            groups.append(group.model_copy(update={"servers": servers}))
    cluster: ClusterSpec = spec.model_copy(update={"groups": tuple(groups)})
    return deployment.model_copy(update={"cluster": cluster})


def _model_plan(model: ModelPlan, how: Rehearsal) -> ModelPlan:
    pipelines = tuple(_pipeline(pipeline, how) for pipeline in model.pipelines)
    return replace(
        model,
        slo_us=round(model.slo_us * how.slower),
        pipelines=pipelines,
        throughput_rps=sum(pipeline.throughput_rps for pipeline in pipelines),
        batch_build_rps=_per(model.batch_build_rps, how),
    )


def _cascade_plan(cascade: PlannedCascade, models: Sequence[ModelPlan], how: Rehearsal) -> PlannedCascade:
    rates = {model.model: model.throughput_rps for model in models}
    return replace(
        cascade,
        slo_us=round(cascade.slo_us * how.slower),
        throughput_rps=min(rates[part.model] / part.frames for part in cascade.parts),
        parts=tuple(replace(part, slo_us=round(part.slo_us * how.slower)) for part in cascade.parts),
    )


def _pipeline(pipeline: Pipeline, how: Rehearsal) -> Pipeline:
    stages = tuple(_stage(stage, how) for stage in pipeline.stages)
    left = min(small.workers / whole.workers for small, whole in zip(stages, pipeline.stages, strict=True))
    return replace(
        pipeline,
        stages=stages,
        transfer_us=tuple(time_us * how.slower for time_us in pipeline.transfer_us),
        throughput_rps=pipeline.throughput_rps * left / how.slower,
        ends=None if pipeline.ends is None else _ends(pipeline.ends, how.slower),
    )


def _ends(ends: PlannedEnds, slower: float) -> PlannedEnds:
    return PlannedEnds(
        ingress_us=ends.ingress_us * slower,
        prepare_us=ends.prepare_us * slower,
        finish_us=ends.finish_us * slower,
        egress_us=ends.egress_us * slower,
    )


def _stage(stage: Stage, how: Rehearsal) -> Stage:
    limit = how.workers_per_pool or stage.workers
    return replace(stage, workers=min(stage.workers, limit), latency_us=stage.latency_us * how.slower)


def _stretched_profile(model: ModelProfile, slower: float) -> ModelProfile:
    overheads = replace(
        model.overheads,
        stage_us=model.overheads.stage_us * slower,
        hop_us=model.overheads.hop_us * slower,
        hop_us_per_byte=model.overheads.hop_us_per_byte * slower,
        entry=model.overheads.entry.times(slower),
    )
    tables = tuple(_stretched_table(table, slower) for table in model.tables)
    provenance: Mapping[str, str] = {
        **model.provenance,
        "rehearsal": f"all times are {slower:g} times as long",
    }
    return replace(
        model,
        tables=tables,
        overheads=overheads,
        provenance=provenance,
        options=_OPTIONS.to_options(),
        prepare=None if model.prepare is None else model.prepare.times(slower),
        finish_us=model.finish_us * slower,
    )


def _stretched_table(table: LatencyTable, slower: float) -> LatencyTable:
    rows = tuple(tuple(time_us * slower for time_us in row) for row in table.latency_us)
    try:
        return replace(table, latency_us=rows)
    except ValueError as error:  # beyond what a number can be
        raise RehearsalFault(f"--slower {slower:g}: {error}") from error


def _per(rate: float | None, how: Rehearsal) -> float | None:
    return None if rate is None else rate / how.slower
