"""Workers of one model, stage position and GPU class -> GPUs, each filled to at most the whole.

Rules
- A GPU serves one (model, stage position); it may mix workers of several pipelines and slice counts.
- Up to 4 slices per GPU the count of GPUs is the workers' sum of slices rounded up: full GPUs of one slice
  count first, then what is left over, which always fits (at most 1/2 + 3 * 1/4 + 2 * 1/3 < 2, in two GPUs).
- Beyond 4 slices mixing can waste space, so slice counts are not mixed; the plan rounds up per slice count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from planner.plan import ModelPlan

MIXED_SLICES = 4
"""Slice counts up to this one may share a GPU."""


@dataclass(frozen=True, order=True)
class WorkerId:
    """A worker of one model: pipeline, stage, index within the stage, and the slices its GPU is cut into."""

    pipeline: int
    stage: int
    worker: int
    slices_per_gpu: int


def slice_group(slices_per_gpu: int) -> int:
    """Workers of equal groups may share a GPU: 0 for all small slice counts."""
    return 0 if slices_per_gpu <= MIXED_SLICES else slices_per_gpu


def gpus_needed(workers_by_slices: Sequence[tuple[int, int]]) -> int:
    """Whole GPUs for (slices_per_gpu, workers) pairs of one model, stage position and GPU class."""
    totals: dict[int, Fraction] = {}
    for slices, workers in workers_by_slices:
        group = slice_group(slices)
        totals[group] = totals.get(group, Fraction(0)) + Fraction(workers, slices)
    return sum(-(-total.numerator // total.denominator) for total in totals.values())


def workers_at(plan: ModelPlan, stage: int, gpu: str) -> list[WorkerId]:
    """All workers of a model at one stage position on one GPU class, in (pipeline, worker) order."""
    return [
        WorkerId(index, stage, worker, pipeline.stages[stage].slices_per_gpu)
        for index, pipeline in enumerate(plan.pipelines)
        if stage < len(pipeline.stages) and pipeline.stages[stage].gpu == gpu
        for worker in range(pipeline.stages[stage].workers)
    ]


def pack(workers: Sequence[WorkerId]) -> list[list[WorkerId]]:
    """One list of workers per GPU; as many GPUs as `gpus_needed` says."""
    full: list[list[WorkerId]] = []
    rest: dict[int, list[list[WorkerId]]] = {}
    for slices in sorted({worker.slices_per_gpu for worker in workers}):
        same = [worker for worker in workers if worker.slices_per_gpu == slices]
        whole = len(same) // slices * slices
        full += [same[first : first + slices] for first in range(0, whole, slices)]
        if whole < len(same):
            rest.setdefault(slice_group(slices), []).append(same[whole:])
    for left_over in rest.values():
        full += _pack_left_over(left_over)
    return full


def _pack_left_over(left_over: list[list[WorkerId]]) -> list[list[WorkerId]]:
    """First fit with halves, quarters, thirds in this order: full for every left-over of up to 4 slices
    (tested).
    """
    order = {2: 0, 4: 1, 3: 2}
    items = sorted(
        (worker for group in left_over for worker in group),
        key=lambda worker: (order.get(worker.slices_per_gpu, 3), worker),
    )
    gpus: list[list[WorkerId]] = []
    room: list[Fraction] = []
    for item in items:
        size = Fraction(1, item.slices_per_gpu)
        index = next((index for index, left in enumerate(room) if size <= left), len(gpus))
        if index == len(gpus):
            gpus.append([])
            room.append(Fraction(1))
        gpus[index].append(item)
        room[index] -= size
    return gpus
