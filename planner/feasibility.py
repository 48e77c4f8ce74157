"""Recomputes everything of a plan from profile and cluster, without a solver, and says what does not hold.

Rules
- `violations` returns one sentence per fault, in plan order; an empty list means that the plan is sound.
- Numbers must agree to 1e-6 of their size; counts exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from planner.assembly import gpus_used, objective_of, utilisation
from planner.cascades.demands import divided_as_planned
from planner.cluster import Cluster
from planner.entry import entry_rows
from planner.loads import server_loads
from planner.memory import largest_batch
from planner.placement import Placement
from planner.plan import ModelPlan, Pipeline, Plan, Stage
from planner.pools import by_pool, plan_by_pool
from planner.problem import Demand, Objective, Problem
from planner.profile import ModelProfile
from planner.rates import (
    assemble,
    batch_build_us,
    budget_us,
    bunch_us,
    ends_of,
    stage_latency_us,
    variation_us,
)
from planner.shards import owned_shares, shard_faults

RELATIVE = 1e-6
SHARE_TOLERANCE = 1e-9


class UnsoundPlan(ValueError):
    """A plan that does not hold; the message has one line per fault."""


def check(plan: Plan, problem: Problem) -> None:
    """Raises UnsoundPlan unless the plan holds."""
    faults = violations(plan, problem)
    if faults:
        raise UnsoundPlan("\n".join(faults))


def violations(plan: Plan, problem: Problem) -> list[str]:
    """Every fault of the plan, its placement included where it has one. Pools are held against their own
    links.
    """
    plan, _ = plan_by_pool(plan, problem.cluster)
    problem = by_pool(divided_as_planned(problem, plan))
    wanted = [demand.model for demand in problem.demands]
    planned = [model.model for model in plan.models]
    if wanted != planned:
        return [f"the plan is for {', '.join(planned)}; wanted are {', '.join(wanted)}"]
    faults = [
        fault
        for demand, model in zip(problem.demands, plan.models, strict=True)
        for fault in _model(problem, demand, model)
    ]
    if faults:
        return faults  # sums over unsound stages would say the same again
    faults += _totals(plan, problem)
    faults += _entry(plan, problem)
    if plan.placement is not None:
        faults += placement_violations(plan, plan.placement, problem.cluster)
        if problem.options.count_ends and not faults:
            faults += _overloaded(plan, plan.placement, problem)
    for shards in plan.shards:
        pipelines = plan.model(shards.model).pipelines
        faults += shard_faults(shards, tuple(tuple(one.workers for one in each.stages) for each in pipelines))
    return faults


def _model(problem: Problem, demand: Demand, model: ModelPlan) -> Iterator[str]:
    profile = problem.profile.model(model.model)
    for number, pipeline in enumerate(model.pipelines):
        where = f"{model.model}, pipeline {number}"
        shape = list(_shape(problem, profile, pipeline, where))
        yield from shape
        if not shape:
            yield from _times(problem, demand, model, pipeline, where)
    total = sum(pipeline.throughput_rps for pipeline in model.pipelines)
    if not _near(total, model.throughput_rps):
        yield f"{model.model}: throughput {model.throughput_rps} rps; its pipelines sum to {total}"


def _shape(problem: Problem, profile: ModelProfile, pipeline: Pipeline, where: str) -> Iterator[str]:
    """Blocks, classes, slices, batches, memory: what times could not be computed without."""
    options = problem.options
    if not 1 <= len(pipeline.stages) <= options.max_stages:
        yield f"{where}: {len(pipeline.stages)} stages; allowed are 1 to {options.max_stages}"
    edges = [0, *(stage.blocks.end for stage in pipeline.stages)]
    if [stage.blocks.start for stage in pipeline.stages] != edges[:-1] or edges[-1] != profile.block_count:
        yield f"{where}: the stages' blocks do not cover 0 to {profile.block_count} in order"
    for number, stage in enumerate(pipeline.stages):
        yield from _stage(problem, profile, stage, f"{where}, stage {number}")
    batches = [stage.batch_size for stage in pipeline.stages]
    if not options.per_stage_batch and len(set(batches)) > 1:
        yield f"{where}: batch sizes {batches} differ"
    for before, after, stage in zip(batches, batches[1:], pipeline.stages[1:], strict=False):
        if before % after:
            yield f"{where}: a batch of {before} cannot be split into batches of {after}"
        elif stage.workers < batches[0] // after:
            yield f"{where}: {stage.workers} workers for {batches[0] // after} parts of a batch"


def _stage(problem: Problem, profile: ModelProfile, stage: Stage, where: str) -> Iterator[str]:
    names = [gpu_class.name for gpu_class in problem.cluster.gpu_classes]
    if stage.gpu not in names:
        yield f"{where}: unknown GPU class {stage.gpu!r}; there are {', '.join(names)}"
        return
    gpu_class = problem.cluster.gpu_class(stage.gpu)
    if not 1 <= stage.slices_per_gpu <= gpu_class.max_slices_per_gpu:
        yield f"{where}: {stage.slices_per_gpu} slices; {stage.gpu} has up to {gpu_class.max_slices_per_gpu}"
    if stage.workers < 1:
        yield f"{where}: {stage.workers} workers"
    table = profile.table(stage.gpu, stage.slices_per_gpu)
    if table is None or stage.batch_size not in table.batch_sizes:
        kind = f"{stage.gpu} in {stage.slices_per_gpu} slices at batch {stage.batch_size}"
        yield f"{where}: not profiled on {kind}"
    most = largest_batch(profile, gpu_class, stage.slices_per_gpu, stage.blocks)
    if stage.batch_size > most:
        yield f"{where}: batch {stage.batch_size} does not fit the memory of {stage.gpu}; {most} does"


def _times(
    problem: Problem, demand: Demand, model: ModelPlan, pipeline: Pipeline, where: str
) -> Iterator[str]:
    profile = problem.profile.model(model.model)
    for number, stage in enumerate(pipeline.stages):
        blocks = stage.blocks
        latency = stage_latency_us(
            profile, blocks.start, blocks.end, stage.gpu, stage.slices_per_gpu, stage.batch_size
        )
        if not _near(latency, stage.latency_us):
            yield f"{where}, stage {number}: latency {stage.latency_us} us; the profile says {latency}"
    ends = ends_of(profile, demand, problem.options)
    again = assemble(profile, problem.cluster, pipeline.stages, ends)
    if not all(map(_near, again.transfer_us, pipeline.transfer_us)):
        yield f"{where}: transfers {pipeline.transfer_us} us; profile and links say {again.transfer_us}"
    if (again.ends is None) != (pipeline.ends is None):
        yield f"{where}: the way in and out is {'' if pipeline.ends else 'not '}counted"
    elif again.ends is not None and pipeline.ends is not None:
        for field in ("ingress_us", "prepare_us", "finish_us", "egress_us"):
            mine, other = getattr(pipeline.ends, field), getattr(again.ends, field)
            if not _near(mine, other):
                yield f"{where}: {field} {mine}; frame, links and cores say {other}"
    slowed = ends is not None and pipeline.throughput_rps < again.throughput_rps  # see _entry
    if not slowed and not _near(again.throughput_rps, pipeline.throughput_rps):
        yield f"{where}: throughput {pipeline.throughput_rps} rps; its pools give {again.throughput_rps}"
    waiting = batch_build_us(
        pipeline.stages[0].batch_size,
        problem.options.batch_build_factor,
        model.batch_build_rps,
        demand.flow.bunch,
    )
    waiting += bunch_us(
        pipeline.stages[0].batch_size,
        max(stage.latency_us for stage in pipeline.stages),
        model.batch_build_rps,
        demand.flow.bunch,
    )
    waiting += variation_us(profile, pipeline.stages, problem.options)
    budget = budget_us(demand, problem.options)
    if again.latency_us + waiting > budget * (1 + RELATIVE):
        total = again.latency_us + waiting
        said = f"{total:.0f} us, batch building and variation included"
        yield f"{where}: {said}; the SLO less its margin is {budget}"


def _entry(plan: Plan, problem: Problem) -> Iterator[str]:
    """The entry carries what is planned, and pipelines are slower than their pools only where it is full."""
    rows = entry_rows(problem)
    if plan.shards:
        rows += entry_rows(problem, owned_shares(plan.shards, problem.cluster.entries))
    rates = [model.throughput_rps for model in plan.models]
    for row in rows:
        if row.used(rates) > row.capacity * (1 + RELATIVE):
            used = f"{row.used(rates)} of {row.capacity} {row.unit}"
            yield f"entry {row.name}: the planned rates take {used}"
    if any(row.used(rates) >= row.capacity * (1 - RELATIVE) for row in rows):
        return
    for demand, model in zip(problem.demands, plan.models, strict=True):
        profile = problem.profile.model(demand.model)
        ends = ends_of(profile, demand, problem.options)
        for number, pipeline in enumerate(model.pipelines):
            pools = assemble(profile, problem.cluster, pipeline.stages, ends).throughput_rps
            if not _near(pools, pipeline.throughput_rps):
                rate = f"throughput {pipeline.throughput_rps} rps; its pools give {pools}"
                yield f"{model.model}, pipeline {number}: {rate}, and nothing at the entry is full"


def _totals(plan: Plan, problem: Problem) -> Iterator[str]:
    used = gpus_used(problem, plan.models)
    for gpu, count in used.items():
        if count > problem.cluster.gpu_count(gpu):
            yield f"{count} GPUs of {gpu} used; the cluster has {problem.cluster.gpu_count(gpu)}"
    if dict(plan.gpus_used) != used:
        yield f"gpus_used {dict(plan.gpus_used)}; the pools need {used}"
    objective = objective_of(problem, plan.models)
    if not _near(objective, plan.objective):
        yield f"objective {plan.objective}; the plan gives {objective}"
    maximise = problem.options.objective is Objective.MAX_RATE
    if (plan.upper_bound - plan.objective) * (1 if maximise else -1) < -RELATIVE * abs(plan.objective):
        yield f"objective {plan.objective} is better than its own bound {plan.upper_bound}"
    busy = utilisation(problem, plan.models)
    for gpu, share in plan.utilisation.items():
        if not _near(share, busy.get(gpu, 0.0)):
            yield f"utilisation of {gpu} {share}; the plan gives {busy.get(gpu, 0.0)}"
    if not maximise:
        for model, demand in zip(plan.models, problem.demands, strict=True):
            if model.throughput_rps < (demand.rate_rps or 0.0) * (1 - RELATIVE):
                yield f"{model.model}: {model.throughput_rps} rps of the wanted {demand.rate_rps}"


def _overloaded(plan: Plan, placement: Placement, problem: Problem) -> Iterator[str]:
    for server, loads in server_loads(plan, placement, problem).items():
        for resource, load in loads.items():
            if load > 1 + RELATIVE:
                yield f"server {server}: the planned rates take {load:.3f} of its {resource}"


def placement_violations(plan: Plan, placement: Placement, cluster: Cluster) -> list[str]:
    """Every fault of a placement: workers placed once, on GPUs that exist and are not over-full, links
    not over-sold.
    """
    faults: list[str] = []
    stages = {
        (model.model, p, s): stage
        for model in plan.models
        for p, pipeline in enumerate(model.pipelines)
        for s, stage in enumerate(pipeline.stages)
    }
    expected = [(*key, worker) for key, stage in stages.items() for worker in range(stage.workers)]
    placed = [(w.model, w.pipeline, w.stage, w.worker) for w in placement.workers]
    if sorted(expected) != sorted(placed):
        return [f"{len(placed)} workers placed, {len(expected)} planned, or not the same ones"]
    servers = {server.name: server for server in cluster.servers}
    filled: dict[tuple[str, int], Fraction] = {}
    owner: dict[tuple[str, int], tuple[str, int]] = {}
    for worker in placement.workers:
        stage = stages[worker.model, worker.pipeline, worker.stage]
        where = (worker.server, worker.gpu_id)
        server = servers.get(worker.server)
        if server is None or server.gpu != stage.gpu or not 0 <= worker.gpu_id < server.gpu_count:
            name = f"{worker.model}, pipeline {worker.pipeline}, stage {worker.stage}"
            faults.append(f"{name}: no {stage.gpu} at {where}")
            continue
        filled[where] = filled.get(where, Fraction(0)) + Fraction(1, stage.slices_per_gpu)
        if owner.setdefault(where, (worker.model, worker.stage)) != (worker.model, worker.stage):
            faults.append(f"GPU {where} serves two models or stage positions")
    faults += [f"GPU {where} is filled to {float(share):.2f}" for where, share in filled.items() if share > 1]
    for name in (*servers, *(entry.name for entry in cluster.entries)):
        there = [share for share in placement.link_shares if share.server == name]
        for direction in ("uplink", "downlink"):
            total = math.fsum(getattr(share, direction) for share in there)
            if total > 1 + SHARE_TOLERANCE:
                faults.append(f"shares of {name}'s {direction} sum to {total}")
    return faults


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=RELATIVE)
