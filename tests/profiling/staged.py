"""A model's stage programs, to be run on frames."""

from __future__ import annotations

from collections.abc import Callable

import torch

from planner.deployment import ModelSpec
from planner.plan import BlockRange
from planner.profiling.loading import load_checked
from planner.profiling.split import Split, split_network
from planner.profiling.stages import export_stage

Run = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


def stages_of(spec: ModelSpec) -> tuple[Split, list[Run]]:
    """The split, and the model in one stage and, where it can be cut, in two: at its first and last cut."""
    split = split_network(spec, load_checked(spec).network)
    count = split.block_count
    ways = [[BlockRange(0, count)]]
    ways += [[BlockRange(0, cut), BlockRange(cut, count)] for cut in {1, count - 1} if 0 < cut < count]
    return split, [_chained([export_stage(split, blocks).module() for blocks in way]) for way in ways]


def _chained(stages: list[torch.nn.Module]) -> Run:
    def run(frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = (frames,)
        for stage in stages:
            values = stage(*values)
        return values

    return run
