"""Times blocks that run one after another: by CUDA events on a GPU, by the host's clock on a CPU."""

from __future__ import annotations

import contextlib
import itertools
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from planner.profile import TensorSpec
from planner.profiling.networks.export import TORCH_DTYPES

Tensors = tuple[torch.Tensor, ...]
Run = Callable[[Tensors], Tensors]


def time_chain(
    blocks: Sequence[Run], values: Tensors, device: str, while_busy: Callable[[], None]
) -> list[float]:
    """Microseconds of each block, each given what the one before it made.

    `while_busy` is called once, on a GPU after all work is launched and before it is waited for.
    """
    if device.startswith("cuda"):
        return _time_on_gpu(blocks, values, while_busy)
    times = []
    for block in blocks:
        start = time.perf_counter()
        values = block(values)
        times.append((time.perf_counter() - start) * 1e6)
    return times


def _time_on_gpu(blocks: Sequence[Run], values: Tensors, while_busy: Callable[[], None]) -> list[float]:
    event: Any = torch.cuda.Event
    marks = [event(enable_timing=True) for _ in range(len(blocks) + 1)]
    marks[0].record()
    for block, mark in zip(blocks, marks[1:], strict=True):
        values = block(values)
        mark.record()
    while_busy()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in itertools.pairwise(marks)]


def random_frames(frame: TensorSpec, batch: int, device: str, seed: int) -> Tensors:
    """A batch of noise: [0, 1) for floats, all values up to 255 for whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    dtype = TORCH_DTYPES[frame.dtype]
    noise = torch.rand((batch, *frame.shape), generator=generator)
    noise = noise if dtype.is_floating_point else noise * (2 if dtype is torch.bool else 255)
    return (noise.to(dtype).to(device),)


def peak_bytes(blocks: Sequence[Run], values: Tensors, device: str) -> list[int]:
    """GPU memory that each block takes beyond what was taken before it ran; nothing on a CPU."""
    if not device.startswith("cuda"):
        return []
    peaks = []
    for block in blocks:
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        values = block(values)
        torch.cuda.synchronize(device)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return peaks


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device, or on a CPU the host, had too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def free_memory(device: str) -> None:
    """Give back what a failed batch had taken."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch on this many threads; as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: str, threads: int) -> str:
    """The device in words: 'NVIDIA L4', or the processor and the threads used."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{_processor()} ({threads} thread{'s' if threads > 1 else ''})"


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
