"""What fits a GPU's memory.

Rule: a worker of 1 / n of a GPU may use 1 / n of its memory, for its own copy of its stage's weights and the
largest activations of its batch. So whatever workers share a GPU, in whatever mix of slices, fits together.
"""

from __future__ import annotations

import sys

from planner.cluster import GpuClass
from planner.plan import BlockRange
from planner.profile import ModelProfile

UNLIMITED = sys.maxsize


def stage_bytes(profile: ModelProfile, blocks: BlockRange, batch_size: int) -> int:
    """Memory of one worker: weights of its blocks and the peak activations of any of them. 0 if not
    profiled.
    """
    activations = profile.activation_bytes[blocks.start : blocks.end]
    return sum(profile.weight_bytes[blocks.start : blocks.end]) + batch_size * max(activations, default=0)


def largest_batch(profile: ModelProfile, gpu_class: GpuClass, slices_per_gpu: int, blocks: BlockRange) -> int:
    """The largest batch that fits one worker's part of the memory; 0 if none; UNLIMITED where nothing limits
    it.
    """
    if gpu_class.memory_bytes is None:
        return UNLIMITED
    room = gpu_class.memory_bytes // slices_per_gpu - stage_bytes(profile, blocks, 0)
    if room < 0:
        return 0
    per_frame = stage_bytes(profile, blocks, 1) - stage_bytes(profile, blocks, 0)
    return room // per_frame if per_frame > 0 else UNLIMITED
