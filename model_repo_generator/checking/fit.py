"""Does the plan fit the deployment, the profile and its own placement? Asked before anything is written.

A plan is a file, and files are edited; what is wrong with it must not show only when a server loads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction

from planner.cluster import Cluster
from planner.deployment import Deployment, ModelSpec, input_specs
from planner.placement import PlacedWorker, Placement
from planner.plan import Pipeline, Plan, Stage
from planner.profile import ModelProfile, Profile, TensorSpec
from planner.serving import ServedModel


class PlanFault(ValueError):
    """A plan that cannot be generated; one line per fault."""


def check_plan(
    deployment: Deployment, profile: Profile, plan: Plan, served: Mapping[str, ServedModel]
) -> None:
    """All checks, on a placed plan. Raises PlanFault."""
    check_pipelines(deployment, profile, plan)
    check_placement(deployment, plan)
    _refuse(_served_faults(plan, served))


def check_pipelines(deployment: Deployment, profile: Profile, plan: Plan) -> None:
    """Models and stages, as far as they need no placement. Raises PlanFault."""
    _refuse(_model_faults(deployment, profile, plan))
    _refuse(_cascade_faults(deployment, plan))
    cluster = deployment.to_cluster()
    _refuse(
        fault
        for model in plan.models
        for index, pipeline in enumerate(model.pipelines)
        for fault in _pipeline_faults(
            f"plan of {model.model!r}, pipeline {index}", pipeline, profile.model(model.model), cluster
        )
    )
    _refuse(_room_faults(plan, cluster))


def check_placement(deployment: Deployment, plan: Plan) -> None:
    """Every planned worker sits once, on a GPU of its class that has room. Raises PlanFault."""
    _refuse(_placement_faults(plan, deployment.to_cluster()))


def _refuse(faults: Iterator[str]) -> None:
    lines = list(faults)
    if lines:
        raise PlanFault("\n".join(lines))


def _model_faults(deployment: Deployment, profile: Profile, plan: Plan) -> Iterator[str]:
    wanted = [spec.name for spec in deployment.models]
    planned = [model.model for model in plan.models]
    profiled = {model.model: model for model in profile.models}
    inner = {member.model for cascade in deployment.cascades for member in cascade.models}
    for name in planned:
        if name not in wanted:
            yield f"the plan has model {name!r}, which is not in the deployment ({', '.join(wanted)})"
        if planned.count(name) > 1:
            yield f"the plan has model {name!r} {planned.count(name)} times"
    for spec in deployment.models:
        if spec.name not in planned:
            yield f"the plan has no model {spec.name!r}, which the deployment wants: plan again"
            continue
        if spec.name not in inner:
            yield from _slo_faults(spec, plan)
        if not plan.model(spec.name).pipelines:
            note = plan.model(spec.name).note or "no reason given"
            yield f"the plan gives {spec.name!r} no pipeline: {note}"
        if spec.name not in profiled:
            yield f"model {spec.name!r} has no profile: profile again"
            continue
        if profiled[spec.name].options != spec.executor_options.to_options():
            yield (f"model {spec.name!r}: executor_options have changed since it was profiled: profile again")
        if profiled[spec.name].inputs != input_specs(spec):
            yield (
                f"the profile of {spec.name!r} was made for inputs {_named(profiled[spec.name].inputs)}, but "
                f"the deployment says {_named(input_specs(spec))}: profile again"
            )
        elif len(profiled[spec.name].cut_tensors) != profiled[spec.name].block_count - 1:
            yield (
                f"the profile of {spec.name!r} names the tensors of {len(profiled[spec.name].cut_tensors)} "
                f"of {profiled[spec.name].block_count - 1} cuts: profile again"
            )
        if not profiled[spec.name].outputs:
            yield f"the profile of {spec.name!r} names no outputs: profile again"


def _cascade_faults(deployment: Deployment, plan: Plan) -> Iterator[str]:
    planned = {cascade.name: cascade for cascade in plan.cascades}
    for spec in deployment.cascades:
        where, found = f"cascades.{spec.name}", planned.pop(spec.name, None)
        if found is None:
            yield f"{where}: the plan was made without it: plan again (ppipe plan)"
            continue
        if found.slo_us != round(spec.slo_ms * 1000):
            yield (
                f"{where}.slo_ms: {spec.slo_ms:g} in the deployment, but the plan was made for "
                f"{found.slo_us / 1000:g}: plan again (ppipe plan)"
            )
        there = {part.model: part.of for part in found.parts}
        if there != {member.model: member.of or "" for member in spec.models}:
            yield f"{where}.models: the plan was made for {', '.join(there)}: plan again (ppipe plan)"
    for name in planned:
        yield f"the plan has cascade {name!r}, which is not in the deployment: plan again (ppipe plan)"


def _named(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)


def _slo_faults(spec: ModelSpec, plan: Plan) -> Iterator[str]:
    planned_us = plan.model(spec.name).slo_us
    if planned_us != round(spec.slo_ms * 1000):
        yield (
            f"models.{spec.name}.slo_ms: {spec.slo_ms:g} in the deployment, but the plan was made for "
            f"{planned_us / 1000:g}: plan again (ppipe plan)"
        )


def _pipeline_faults(
    where: str, pipeline: Pipeline, profile: ModelProfile, cluster: Cluster
) -> Iterator[str]:
    position = 0
    for index, stage in enumerate(pipeline.stages):
        if stage.blocks.start != position:
            yield f"{where}, stage {index}: starts at block {stage.blocks.start} where {position} is next"
        position = stage.blocks.end
        yield from _stage_faults(f"{where}, stage {index}", stage, profile, cluster)
    if position != profile.block_count:
        yield f"{where}: ends at block {position}, but the profile has {profile.block_count} blocks"


def _room_faults(plan: Plan, cluster: Cluster) -> Iterator[str]:
    """Before workers are placed one by one: a count that was edited may be a billion."""
    needed: dict[str, Fraction] = {}
    for stage in (each for model in plan.models for pipe in model.pipelines for each in pipe.stages):
        needed[stage.gpu] = needed.get(stage.gpu, Fraction(0)) + Fraction(stage.workers, stage.slices_per_gpu)
    for gpu, count in needed.items():
        there = cluster.gpu_count(gpu)
        if count > there:
            yield f"the plan's workers take {float(count):g} GPUs of class {gpu!r}; there are {there}"


def _stage_faults(where: str, stage: Stage, profile: ModelProfile, cluster: Cluster) -> Iterator[str]:
    classes = [gpu_class.name for gpu_class in cluster.gpu_classes]
    if stage.gpu not in classes:
        yield f"{where}: unknown GPU class {stage.gpu!r}; the deployment has {', '.join(classes)}"
        return
    limit = cluster.gpu_class(stage.gpu).max_slices_per_gpu
    if not 1 <= stage.slices_per_gpu <= limit:
        yield f"{where}: slices_per_gpu {stage.slices_per_gpu} is not in 1..{limit} of class {stage.gpu!r}"
    table = profile.table(stage.gpu, stage.slices_per_gpu)
    if table is None:
        yield f"{where}: {profile.model!r} is not profiled on {stage.gpu!r} in {stage.slices_per_gpu} slices"
    elif not 1 <= stage.batch_size <= table.batch_sizes[-1]:
        yield f"{where}: batch_size {stage.batch_size} is not in the profiled 1..{table.batch_sizes[-1]}"
    if stage.workers < 1:
        yield f"{where}: workers {stage.workers} must be at least 1"


def _placement_faults(plan: Plan, cluster: Cluster) -> Iterator[str]:
    if plan.placement is None:
        yield "the plan has no placement; planner.placing.place makes one"
        return
    stages = {
        (model.model, p, s): stage
        for model in plan.models
        for p, pipeline in enumerate(model.pipelines)
        for s, stage in enumerate(pipeline.stages)
    }
    wanted = {(*key, worker) for key, stage in stages.items() for worker in range(stage.workers)}
    placed = Counter((each.model, each.pipeline, each.stage, each.worker) for each in plan.placement.workers)
    for key in sorted(wanted - set(placed)):
        yield f"placement: {_worker(key)} is planned and not placed"
    for key in sorted(set(placed) - wanted):
        yield f"placement: {_worker(key)} is placed and not planned"
    for key in sorted(key for key, count in placed.items() if count > 1):
        yield f"placement: {_worker(key)} is placed {placed[key]} times"
    if set(placed) == wanted:
        yield from _seat_faults(plan.placement.workers, stages, cluster)
        yield from _link_faults(plan, plan.placement)


def _seat_faults(
    workers: tuple[PlacedWorker, ...], stages: Mapping[tuple[str, int, int], Stage], cluster: Cluster
) -> Iterator[str]:
    servers = {server.name: server for server in cluster.servers}
    used: dict[tuple[str, int], Fraction] = {}
    seats: Counter[tuple[str, int, int, int]] = Counter()
    for each in workers:
        where = f"placement: {_worker((each.model, each.pipeline, each.stage, each.worker))}"
        stage = stages[each.model, each.pipeline, each.stage]
        server = servers.get(each.server)
        if server is None:
            yield f"{where}: unknown server {each.server!r}; the deployment has {', '.join(servers)}"
            continue
        if server.gpu != stage.gpu:
            yield f"{where}: server {server.name!r} has GPUs of class {server.gpu!r}, not {stage.gpu!r}"
        if not 0 <= each.gpu_id < server.gpu_count:
            limit = f"0..{server.gpu_count - 1} of server {server.name!r}"
            yield f"{where}: gpu_id {each.gpu_id} is not in {limit}"
        if not 0 <= each.slice_index < stage.slices_per_gpu:
            yield f"{where}: slice_index {each.slice_index} is not in 0..{stage.slices_per_gpu - 1}"
        gpu = (each.server, each.gpu_id)
        used[gpu] = used.get(gpu, Fraction(0)) + Fraction(1, stage.slices_per_gpu)
        seats[(*gpu, stage.slices_per_gpu, each.slice_index)] += 1
    for (name, gpu_id), share in used.items():
        if share > 1:
            yield f"placement: GPU {gpu_id} of server {name!r} holds workers of {share} GPUs in all"
    for (name, gpu_id, _, slice_index), count in seats.items():
        if count > 1:
            yield f"placement: {count} workers on slice {slice_index} of GPU {gpu_id} of server {name!r}"


def _link_faults(plan: Plan, placement: Placement) -> Iterator[str]:
    """A sender needs a share of its server's uplink, a receiver of its downlink; shares sum to at most 1."""
    shares = {(share.model, share.server): share for share in placement.link_shares}
    last = {
        (model.model, p): len(pipeline.stages) - 1
        for model in plan.models
        for p, pipeline in enumerate(model.pipelines)
    }
    counted = {model.model for model in plan.models if model.frame is not None}
    faults = set()
    for seat in placement.workers:
        share = shares.get((seat.model, seat.server))
        for direction, needed in (
            ("uplink", seat.stage < last[seat.model, seat.pipeline] or seat.model in counted),
            ("downlink", seat.stage > 0 or seat.model in counted),
        ):
            if needed and not (share is not None and getattr(share, direction) > 0):
                faults.add(f"placement: {seat.model!r} has no share of the {direction} of {seat.server!r}")
    for server in {share.server for share in placement.link_shares}:
        for direction in ("uplink", "downlink"):
            total = sum(
                getattr(share, direction) for share in placement.link_shares if share.server == server
            )
            if total > 1 + 1e-9:
                faults.add(f"placement: shares of the {direction} of {server!r} sum to {total:.3f}, above 1")
    yield from sorted(faults)


def _served_faults(plan: Plan, served: Mapping[str, ServedModel]) -> Iterator[str]:
    assert plan.placement is not None
    seats = {
        (each.model, each.pipeline, each.stage, each.worker): each.server for each in plan.placement.workers
    }
    for model in plan.models:
        if model.model not in served:
            yield f"model {model.model!r} has no serving tables"
            continue
        tables = served[model.model]
        shape = [[stage.workers for stage in pipeline.stages] for pipeline in model.pipelines]
        if [[len(stage.workers) for stage in each.stages] for each in tables.pipelines] != shape:
            yield f"the serving tables of {model.model!r} have other pipelines or workers than the plan"
            continue
        for p, pipeline in enumerate(tables.pipelines):
            for s, stage in enumerate(pipeline.stages):
                for w, worker in enumerate(stage.workers):
                    if seats[model.model, p, s, w] != worker.server:
                        seat = seats[model.model, p, s, w]
                        yield f"the serving tables put {worker.name!r} on {worker.server!r}, not on {seat!r}"


def _worker(key: tuple[str, int, int, int]) -> str:
    return f"worker {key[3]} of stage {key[2]} of pipeline {key[1]} of {key[0]!r}"
