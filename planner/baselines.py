"""The paper's comparisons through the same data types.

NP ("no partitioning"): every model whole on whole GPUs, chosen by the same MILP.
DART-r: NP decides how many GPUs of each class a model gets; those that NP leaves over are dealt out, each
model the same whole number of every class. Then each model pairs a GPU of one class with one of another, each
pair a pipeline of two stages, replicated; GPUs without a partner serve the whole model, where they can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.assembly import gpus_used, model_plan
from planner.formulation import Use, stage_count
from planner.pipelines import Columns, enumerate_columns
from planner.plan import ModelPlan, Plan
from planner.problem import Demand, Problem
from planner.solver import Limits, LinearProgram, Term

Bundle = tuple[int, ...]
"""Class index per stage of one replica: one GPU alone, or a pair."""


@dataclass(frozen=True)
class _Best:
    """The fastest column of a bundle, and its frames/s."""

    row: int
    rate_rps: float


def one_stage(problem: Problem) -> Problem:
    """NP's problem: one stage, whole GPUs."""
    cluster = problem.cluster
    whole = tuple(replace(gpu_class, max_slices_per_gpu=1) for gpu_class in cluster.gpu_classes)
    return replace(
        problem,
        cluster=replace(cluster, gpu_classes=whole),
        options=replace(problem.options, max_stages=1, per_stage_batch=False, pipelines_per_class_pair=None),
    )


def dart_models(problem: Problem, np_plan: Plan) -> list[ModelPlan]:
    """DART-r's plan of every model, from NP's plan of all."""
    gpus = _deal(problem, np_plan)
    return [_pair_up(problem, demand, counts) for demand, counts in zip(problem.demands, gpus, strict=True)]


def _deal(problem: Problem, np_plan: Plan) -> list[dict[str, int]]:
    """GPUs per model and class: NP's, and an equal whole share of those left over."""
    counts = [gpus_used(problem, [model]) for model in np_plan.models]
    for gpu_class in problem.cluster.gpu_classes:
        gpu = gpu_class.name
        left = problem.cluster.gpu_count(gpu) - sum(mine[gpu] for mine in counts)
        for mine in counts:
            mine[gpu] += left // len(counts)
    return counts


def _pair_up(problem: Problem, demand: Demand, counts: Mapping[str, int]) -> ModelPlan:
    """Replicas of pairs and single GPUs that serve most from these GPUs."""
    columns = enumerate_columns(
        problem.profile.model(demand.model),
        problem.cluster,
        demand,
        replace(problem.options, max_stages=2, per_stage_batch=False),
        max_slices=1,
    )
    bundles = _bundles(columns)
    limits = [counts[gpu_class.name] for gpu_class in problem.cluster.gpu_classes]
    uses = [
        Use(
            row=bundles[bundle].row, rate_rps=bundles[bundle].rate_rps * count, workers=(count,) * len(bundle)
        )
        for bundle, count in _replicas(bundles, limits).items()
    ]
    # A replica is a GPU of each class; its slower stage leaves the other idle, so nothing is trimmed.
    return model_plan(problem, demand, columns, uses, trim=False)


def _bundles(columns: Columns) -> dict[Bundle, _Best]:
    """The fastest pipeline of every single class and every pair of different classes."""
    best: dict[Bundle, _Best] = {}
    if not len(columns):
        return best
    rate = columns.rate_rps.min(axis=1)
    for row in np.lexsort((columns.latency_us, -rate)):
        bundle = tuple(int(g) for g in columns.gpu[row, : stage_count(columns, int(row))])
        if len(set(bundle)) == len(bundle) and bundle not in best:
            best[bundle] = _Best(row=int(row), rate_rps=float(rate[row]))
    return best


def _replicas(bundles: Mapping[Bundle, _Best], limits: Sequence[int]) -> dict[Bundle, int]:
    """How often to use each bundle: the most frames/s within the GPUs."""
    if not bundles:
        return {}
    model = LinearProgram("replicas", maximise=True)
    names = sorted(bundles)
    counts = [model.variable("k", upper=min(limits[g] for g in bundle), integer=True) for bundle in names]
    for g, limit in enumerate(limits):
        terms: list[Term] = [(k, 1.0) for bundle, k in zip(names, counts, strict=True) if g in bundle]
        if terms:
            model.constrain(f"gpus_{g}", terms, "<=", limit)
    model.optimise([(k, bundles[bundle].rate_rps) for bundle, k in zip(names, counts, strict=True)])
    solution = model.solve(Limits(relative_gap=0.0))
    chosen = zip(names, solution.values, strict=True)
    return {bundle: round(value) for bundle, value in chosen if round(value) > 0}
