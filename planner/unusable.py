"""GPUs that no pipeline can use, and why: an owner who paid for them wants to know.

Asked for classes that a plan leaves idle; one that pipelines could use, and that the plan does not need, is
not in the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from planner.cluster import GpuClass
from planner.memory import room_text
from planner.pipelines import enumerate_columns
from planner.problem import Demand, Problem
from planner.profile import ModelProfile

_MOST_NAMED = 3
"""Models that are named for one reason."""
_PATIENT_US = 1 << 62


def unusable_gpus(problem: Problem, idle: Iterable[str]) -> Mapping[str, str]:
    """Of these classes, those that are in no pipeline of any model, with the reason."""
    left = [gpu for gpu in idle if problem.cluster.gpu_count(gpu)]
    for demand in problem.demands:
        left = [gpu for gpu in left if not _takes_part(problem, demand, gpu)]
    return {gpu: _why(problem, problem.cluster.gpu_class(gpu)) for gpu in left}


def _why(problem: Problem, gpu_class: GpuClass) -> str:
    models: dict[str, list[str]] = {}
    for demand in problem.demands:
        profile = problem.profile.model(demand.model)
        models.setdefault(_reason(problem, profile, demand, gpu_class), []).append(demand.model)
    return "; ".join(f"{reason} ({_named(names)})" for reason, names in models.items())


def _reason(problem: Problem, profile: ModelProfile, demand: Demand, gpu_class: GpuClass) -> str:
    tables = [
        table
        for table in profile.tables
        if table.gpu == gpu_class.name and table.slices_per_gpu <= gpu_class.max_slices_per_gpu
    ]
    if not tables:
        return "not profiled on it"
    if _takes_part(problem, replace(demand, slo_us=_PATIENT_US), gpu_class.name):
        return f"no pipeline with it meets the SLO of {demand.slo_us / 1000:g} ms"
    stages = problem.options.max_stages
    return f"no stage of a split into up to {stages} fits its memory: {room_text(gpu_class)}"


def _takes_part(problem: Problem, demand: Demand, gpu: str) -> bool:
    """Whether a pipeline of the model has a stage on this class."""
    profile = problem.profile.model(demand.model)
    columns = enumerate_columns(profile, problem.cluster, demand, problem.options)
    names = [gpu_class.name for gpu_class in problem.cluster.gpu_classes]
    return bool((columns.gpu == names.index(gpu)).any())


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
