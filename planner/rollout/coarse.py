"""Planning with the cuts that are served: a profile whose blocks are joined where no stage begins or ends.

A plan made with such a profile uses stages that are loaded somewhere already: a rollout to it loads little.
Stages take the same time either way: a stage's latency is the sum of its blocks'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from planner.plan import BlockRange, ModelPlan, Plan, Stage
from planner.problem import Problem
from planner.profile import LatencyTable, ModelProfile, Profile


def with_served_cuts(problem: Problem, served: Plan) -> Problem:
    """The problem in which stages begin and end only where those of `served` do, on slices that it uses."""
    models = []
    for profile in problem.profile.models:
        plans = [model for model in served.models if model.model == profile.model]
        stages = [stage for model in plans for pipeline in model.pipelines for stage in pipeline.stages]
        models.append(_joined(profile, stages) if stages else profile)
    return replace(problem, profile=Profile(tuple(models)))


def with_all_cuts(plan: Plan, problem: Problem, served: Plan) -> Plan:
    """A plan of `with_served_cuts` in the blocks of the whole problem."""
    models = []
    for model in plan.models:
        ends = _ends(problem.profile.model(model.model), _stages_of(served, model.model))
        pipelines = tuple(
            replace(pipeline, stages=tuple(_in_blocks(stage, ends) for stage in pipeline.stages))
            for pipeline in model.pipelines
        )
        models.append(replace(model, pipelines=pipelines))
    return replace(plan, models=tuple(models))


def _stages_of(plan: Plan, model: str) -> list[Stage]:
    plans: list[ModelPlan] = [one for one in plan.models if one.model == model]
    return [stage for one in plans for pipeline in one.pipelines for stage in pipeline.stages]


def _in_blocks(stage: Stage, ends: Sequence[int]) -> Stage:
    return replace(stage, blocks=BlockRange(ends[stage.blocks.start], ends[stage.blocks.end]))


def _ends(profile: ModelProfile, stages: Sequence[Stage]) -> list[int]:
    """Block numbers at which stages begin or end; all where there is no stage."""
    if not stages:
        return list(range(profile.block_count + 1))
    return sorted({0, profile.block_count} | {at for s in stages for at in (s.blocks.start, s.blocks.end)})


def _joined(profile: ModelProfile, stages: Sequence[Stage]) -> ModelProfile:
    ends = _ends(profile, stages)
    ranges = [slice(start, end) for start, end in pairwise(ends)]
    inner = [end - 1 for end in ends[1:-1]]
    used = {(stage.gpu, stage.slices_per_gpu) for stage in stages}
    return replace(
        profile,
        cut_bytes=tuple(profile.cut_bytes[cut] for cut in inner),
        cut_tensors=tuple(profile.cut_tensors[cut] for cut in inner) if profile.cut_tensors else (),
        block_names=(),
        weight_bytes=tuple(sum(profile.weight_bytes[part]) for part in ranges)
        if profile.weight_bytes
        else (),
        activation_bytes=tuple(max(profile.activation_bytes[part]) for part in ranges)
        if profile.activation_bytes
        else (),
        tables=tuple(
            _joined_table(table, ranges)
            for table in profile.tables
            if (table.gpu, table.slices_per_gpu) in used
        ),
    )


def _joined_table(table: LatencyTable, ranges: Sequence[slice]) -> LatencyTable:
    rows = tuple(
        tuple(sum(column) for column in zip(*table.latency_us[part], strict=True)) for part in ranges
    )
    return replace(table, latency_us=rows, spread=())
