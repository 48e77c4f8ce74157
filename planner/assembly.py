"""From pipelines in use to a Plan: stages, whole workers, objective, utilisation, what one more GPU is worth.

Rules
- Every number of a plan is computed from its whole workers, in a fixed order; none is taken from the solver,
  but for bound and prices, which are cut to 9 digits (the bound outwards, so that it stays one).
- A pool keeps as many workers as its pipeline's throughput needs, no more.
- Pipelines of a model stand in the order of falling throughput, then by stages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.entry import EntryRow, within
from planner.formulation import Use, stage_count
from planner.latency_sources import latency_sources
from planner.packing import gpus_needed
from planner.pipelines import Columns
from planner.plan import BlockRange, EntryUse, ModelPlan, Pipeline, Plan
from planner.problem import Demand, Objective, Problem, wanted_of, weight_of
from planner.rates import assemble, ends_of, frame_of, margin_of, timed_stage, worker_rates_rps

DIGITS = 9


def model_plan(
    problem: Problem, demand: Demand, columns: Columns, uses: Sequence[Use], trim: bool = True
) -> ModelPlan:
    """The plan of one model from the uses of its columns. `trim` False keeps workers that cannot be
    kept busy.
    """
    pipelines = [_pipeline(problem, demand, columns, use) for use in uses]
    if trim:
        pipelines = [_trimmed(problem, pipeline, demand) for pipeline in pipelines]
    profile = problem.profile.model(demand.model)
    ends = ends_of(profile, demand, problem.options)
    ordered = sorted(pipelines, key=lambda pipeline: (-pipeline.throughput_rps, _key(pipeline)))
    return ModelPlan(
        model=demand.model,
        slo_us=demand.slo_us,
        slo_margin=margin_of(demand, problem.options),
        pipelines=tuple(ordered),
        throughput_rps=sum(pipeline.throughput_rps for pipeline in ordered),
        batch_build_rps=demand.batch_build_rps,
        frame=None if ends is None else frame_of(profile, demand),
        answer_bytes=0 if ends is None else ends.answer_bytes,
        prepare_us=0.0 if ends is None else ends.prepare_us,
        prepare_assumed=ends is not None and profile.prepare is not None and profile.prepare.assumed,
    )


def within_entry(
    problem: Problem, models: Sequence[ModelPlan], rows: Sequence[EntryRow], trim: bool = True
) -> list[ModelPlan]:
    """The models' plans at rates that the entry carries, each pipeline slowed alike; `trim` as above."""
    if not rows:
        return list(models)
    weights = [wanted_of(demand, problem.options) for demand in problem.demands]
    rates = within(rows, [model.throughput_rps for model in models], weights)
    return [
        _slowed(problem, demand, model, rate, trim) if rate < model.throughput_rps else model
        for demand, model, rate in zip(problem.demands, models, rates, strict=True)
    ]


def _slowed(problem: Problem, demand: Demand, model: ModelPlan, rate_rps: float, trim: bool) -> ModelPlan:
    """The model at this lower rate."""
    share = rate_rps / model.throughput_rps
    pipelines = [
        replace(pipeline, throughput_rps=pipeline.throughput_rps * share) for pipeline in model.pipelines
    ]
    if trim:
        pipelines = [
            replace(_trimmed(problem, slow, demand), throughput_rps=slow.throughput_rps) for slow in pipelines
        ]
    return replace(
        model,
        pipelines=tuple(pipelines),
        throughput_rps=sum(pipeline.throughput_rps for pipeline in pipelines),
    )


def _key(pipeline: Pipeline) -> tuple[tuple[int, int, str, int, int], ...]:
    return tuple(
        (stage.blocks.start, stage.blocks.end, stage.gpu, stage.slices_per_gpu, stage.batch_size)
        for stage in pipeline.stages
    )


def _pipeline(problem: Problem, demand: Demand, columns: Columns, use: Use) -> Pipeline:
    profile = problem.profile.model(demand.model)
    stages = [
        timed_stage(
            profile,
            BlockRange(int(columns.start[use.row, i]), int(columns.end[use.row, i])),
            gpu=problem.cluster.gpu_classes[int(columns.gpu[use.row, i])].name,
            slices_per_gpu=int(columns.slices[use.row, i]),
            batch_size=int(columns.batch[use.row, i]),
            workers=use.workers[i],
        )
        for i in range(stage_count(columns, use.row))
    ]
    return assemble(profile, problem.cluster, stages, ends_of(profile, demand, problem.options))


def _trimmed(problem: Problem, pipeline: Pipeline, demand: Demand) -> Pipeline:
    """The pipeline without workers that its rate does not need."""
    profile = problem.profile.model(demand.model)
    ends = ends_of(profile, demand, problem.options)
    rates = worker_rates_rps(problem.cluster, pipeline.stages, pipeline.transfer_us, ends)
    parts = pipeline.stages[0].batch_size
    stages = [
        replace(
            stage,
            workers=max(math.ceil(pipeline.throughput_rps / rate - 1e-9), parts // stage.batch_size),
        )
        for stage, rate in zip(pipeline.stages, rates, strict=True)
    ]
    return assemble(profile, problem.cluster, stages, ends)


def objective_of(problem: Problem, models: Sequence[ModelPlan]) -> float:
    """The least of throughput / weight, or the cost of all GPUs in use."""
    if problem.options.objective is Objective.MAX_RATE:
        pairs = zip(models, problem.demands, strict=True)
        return min((model.throughput_rps / weight_of(demand) for model, demand in pairs), default=0.0)
    costs = problem.options.gpu_cost
    return float(sum(costs.get(gpu, 1.0) * count for gpu, count in gpus_used(problem, models).items()))


def gpus_used(problem: Problem, models: Sequence[ModelPlan]) -> dict[str, int]:
    """Whole GPUs per class: per model, stage position and class, workers / slices rounded up."""
    used = {gpu_class.name: 0 for gpu_class in problem.cluster.gpu_classes}
    for model in models:
        for (_, gpu), pools in pools_by_place(model).items():
            used[gpu] += gpus_needed(pools)
    return used


def pools_by_place(model: ModelPlan) -> dict[tuple[int, str], list[tuple[int, int]]]:
    """(slices per GPU, workers) of a model's pools per stage position and class."""
    places: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for pipeline in model.pipelines:
        for position, stage in enumerate(pipeline.stages):
            places.setdefault((position, stage.gpu), []).append((stage.slices_per_gpu, stage.workers))
    return places


def utilisation(problem: Problem, models: Sequence[ModelPlan]) -> dict[str, float]:
    """Per class, the share of all its GPUs' time that stages compute when every pipeline runs at its
    throughput.
    """
    busy = {gpu_class.name: 0.0 for gpu_class in problem.cluster.gpu_classes}
    for model in models:
        for pipeline in model.pipelines:
            for stage in pipeline.stages:
                batches_per_s = pipeline.throughput_rps / stage.batch_size
                busy[stage.gpu] += batches_per_s * stage.latency_us / 1e6 / stage.slices_per_gpu
    counts = {gpu: problem.cluster.gpu_count(gpu) for gpu in busy}
    return {gpu: busy[gpu] / counts[gpu] if counts[gpu] else 0.0 for gpu in busy}


def assemble_plan(
    problem: Problem,
    planner: str,
    models: Sequence[ModelPlan],
    bound: float,
    gpu_price: Sequence[float],
    solver: str,
    problem_hash: str = "",
    entry: tuple[EntryUse, ...] = (),
) -> Plan:
    """The whole plan, without placement."""
    objective = objective_of(problem, models)
    maximise = problem.options.objective is Objective.MAX_RATE
    bound = max(objective, _cut(bound, up=True)) if maximise else min(objective, _cut(bound, up=False))
    prices: Mapping[str, float] = {
        gpu_class.name: _cut(price, up=True)
        for gpu_class, price in zip(problem.cluster.gpu_classes, gpu_price, strict=True)
    }
    used = gpus_used(problem, models)
    return Plan(
        planner=planner,
        objective=objective,
        upper_bound=bound,
        gap=abs(bound - objective) / objective if objective else 0.0,
        solver=solver,
        models=tuple(models),
        gpu_price=prices,
        utilisation=utilisation(problem, models),
        gpus_used=used,
        cost={gpu: problem.options.gpu_cost.get(gpu, 1.0) * count for gpu, count in used.items()},
        problem_hash=problem_hash,
        latency_sources=latency_sources(
            problem.profile, (gpu_class.name for gpu_class in problem.cluster.gpu_classes)
        ),
        entry=tuple(replace(use, price=_cut(use.price, up=True)) for use in entry),
    )


def _cut(value: float, up: bool) -> float:
    """`value` to 9 digits, rounded up or down: digits beyond depend on how a solver was compiled."""
    if value == 0 or not math.isfinite(value):
        return 0.0 if value == 0 else value
    scale = 10.0 ** (DIGITS - 1 - math.floor(math.log10(abs(value))))
    return (math.ceil if up else math.floor)(value * scale) / scale
