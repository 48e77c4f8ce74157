"""A plan's pools in a plane: one lane for each GPU class, stages from left to right. What both pictures of a
plan, matplotlib's and the report's, start from; and the words for a pool.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.plan import Plan, Stage

STAGE_WIDTH = 3.2
SLOT = 0.85


@dataclass(frozen=True)
class FlowPool:
    """A stage of a pipeline with its place in the picture: centre of its box."""

    model: int
    pipeline: int
    position: int
    stage: Stage
    x: float
    y: float


@dataclass(frozen=True)
class Lane:
    """The pools of one GPU class, or of its servers that are alike."""

    at: str
    top: float
    height: float
    pools: tuple[FlowPool, ...]


def lanes_of(plan: Plan) -> list[Lane]:
    """From top to bottom; pools are stacked per stage position in model order."""
    lanes = []
    top = 0.0
    for gpu in plan.gpus_used:
        filled: dict[int, int] = {}
        members = []
        for m, model in enumerate(plan.models):
            for p, pipeline in enumerate(model.pipelines):
                for position, stage in enumerate(pipeline.stages):
                    if stage.at != gpu:
                        continue
                    slot = filled.get(position, 0)
                    filled[position] = slot + 1
                    y = top + 0.45 + SLOT * (slot + 0.5)
                    members.append(FlowPool(m, p, position, stage, STAGE_WIDTH * (position + 0.6), y))
        size = 0.6 + SLOT * max([1, *filled.values()])
        lanes.append(Lane(gpu, top, size, tuple(members)))
        top += size
    return lanes


def worker_text(stage: Stage) -> str:
    """What one worker is: a GPU or a slice of one."""
    return stage.at if stage.slices_per_gpu == 1 else f"1/{stage.slices_per_gpu} {stage.at}"


def blocks_text(stage: Stage) -> str:
    """The stage's blocks, both ends included."""
    first, last = stage.blocks.start, stage.blocks.end - 1
    return f"block {first}" if first == last else f"blocks {first}–{last}"


def busy_share(throughput_rps: float, stage: Stage) -> float:
    """Of the pool's time, at this planned rate."""
    return throughput_rps / stage.batch_size * stage.latency_us / 1e6 / stage.workers
