"""What fits a GPU's memory.

Rule: a worker of 1 / n of a GPU may use 1 / n of its memory, after what tritonserver takes for itself, for
its own process's CUDA context, its own copy of its stage's weights and the largest activations of its batch.
So whatever workers share a GPU, in whatever mix of slices, fits together.

Each worker is a process of its own (a stub of Triton's Python backend), so each has a context of its own,
under MPS too since Volta. What a context takes grows with the GPU's multiprocessors and the kernels loaded:
287 MB with torch's lazy loading of kernels (pytorch/pytorch#86509), 426 MiB on an RTX 6000 Ada with 142
multiprocessors, before any kernel (unslothai/unsloth-zoo#1053), "around 400 MB" (pytorch/pytorch#109888).
tritonserver has one on every GPU that it sees, used or not: "<500 MB" (triton-inference-server/server#8368),
with its pool of CUDA memory, 64 MiB by default. CONTEXT_BYTES and SERVER_BYTES are above all of these, and
not yet measured with this package: `scripts/benchmarks handover` does on a GPU, and nvidia-smi shows each
process. Weights and activations are counted in FP32 whatever the precision, which is on the safe side.
"""

from __future__ import annotations

import sys

from planner.cluster import Executor, GpuClass
from planner.execution import CONTEXT_BYTES
from planner.plan import BlockRange
from planner.profile import ModelProfile

UNLIMITED = sys.maxsize
SERVER_BYTES = 512 << 20
"""Of every GPU: tritonserver's own context and pool."""


def stage_bytes(profile: ModelProfile, blocks: BlockRange, batch_size: int) -> int:
    """Memory of one worker's tensors: weights of its blocks and the peak activations of any of them. 0 if not
    profiled.
    """
    activations = profile.activation_bytes[blocks.start : blocks.end]
    return sum(profile.weight_bytes[blocks.start : blocks.end]) + batch_size * max(activations, default=0)


def context_bytes(gpu_class: GpuClass) -> int:
    """What CUDA takes for one worker's process; an emulated GPU is planned as the one it stands for."""
    return 0 if gpu_class.executor is Executor.CPU else CONTEXT_BYTES


def server_bytes(gpu_class: GpuClass) -> int:
    """What tritonserver takes of each GPU."""
    return 0 if gpu_class.executor is Executor.CPU else SERVER_BYTES


def worker_bytes(gpu_class: GpuClass, slices_per_gpu: int) -> int | None:
    """What one worker's process may take in all, its context included; None where nothing limits it."""
    if gpu_class.memory_bytes is None:
        return None
    return max(0, gpu_class.memory_bytes - server_bytes(gpu_class)) // slices_per_gpu


def room_text(gpu_class: GpuClass) -> str:
    """What a worker of a whole GPU has for its tensors, and what is taken before; '' if not limited."""
    part = worker_bytes(gpu_class, 1)
    if part is None or gpu_class.memory_bytes is None:
        return ""
    room = max(0, part - context_bytes(gpu_class))
    return (
        f"{gpu_class.name} has {_gib(gpu_class.memory_bytes)}, of which tritonserver takes "
        f"{_gib(server_bytes(gpu_class))} and a worker's CUDA context {_gib(context_bytes(gpu_class))}; "
        f"{_gib(room)} is left for weights and activations"
    )


def least_stage_bytes(profile: ModelProfile, stages: int, batch_size: int) -> int:
    """Of the split into at most `stages` whose largest stage is smallest, that stage; 0 where memory was not
    profiled.
    """
    blocks = profile.block_count
    # least[end]: for blocks [0, end) and the stages so far.
    least = [0] + [stage_bytes(profile, BlockRange(0, end), batch_size) for end in range(1, blocks + 1)]
    for _ in range(min(stages, blocks) - 1):
        least = [0] + [
            min(
                max(least[start], stage_bytes(profile, BlockRange(start, end), batch_size))
                for start in range(end)
            )
            for end in range(1, blocks + 1)
        ]
    return least[blocks]


def _gib(size: int) -> str:
    return f"{round(size / 2**30, 2):g} GiB"


def largest_batch(profile: ModelProfile, gpu_class: GpuClass, slices_per_gpu: int, blocks: BlockRange) -> int:
    """The largest batch that fits one worker's part of the memory; 0 if none; UNLIMITED where nothing limits
    it.
    """
    part = worker_bytes(gpu_class, slices_per_gpu)
    if part is None:
        return UNLIMITED
    room = part - context_bytes(gpu_class) - stage_bytes(profile, blocks, 0)
    if room < 0:
        return 0
    per_frame = stage_bytes(profile, blocks, 1) - stage_bytes(profile, blocks, 0)
    return room // per_frame if per_frame > 0 else UNLIMITED
