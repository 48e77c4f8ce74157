"""Time a split model's blocks on this device.

Rules
- What is timed is the program that a stage would run, block by block, on values that flow from block to
  block.
- Repeats are interleaved (all blocks, all batch sizes, then again), so that a slow moment spoils no single
  figure; the figure is the median.
- A batch size is left out, and so are larger ones, when no block finishes a smaller one within the SLO, or
  when the device runs out of memory.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from planner.plan import BlockRange
from planner.profiling.export import TORCH_DTYPES
from planner.profiling.split import Split
from planner.profiling.stages import stage_module

Step = Callable[[str], None]
Run = Callable[..., tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class MeasureOptions:
    """How to time. `threads` are torch's, on the CPU.

    `stop_us`: the SLO, or None to time every batch size.
    """

    device: str = "cpu"
    threads: int = 1
    warm_up: int = 2
    repeats: int = 7
    stop_us: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Measurement:
    """latency_us[block][i] and spread[block][i] (half the interquartile range / median) at batch_sizes[i]."""

    device: str
    batch_sizes: tuple[int, ...]
    latency_us: tuple[tuple[float, ...], ...]
    spread: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...] = field(default=())


def measure(
    split: Split, batch_sizes: Sequence[int], options: MeasureOptions | None = None, step: Step | None = None
) -> Measurement:
    """Time every block at every batch size.

    `step` is called with a label after each of repeats + warm-up rounds.
    """
    options = options or MeasureOptions()
    with torch_threads(options.threads), torch.inference_mode():
        blocks = [_block(split, index, options.device) for index in range(split.block_count)]
        usable, notes = _warm_up(split, blocks, batch_sizes, options)
        samples: dict[tuple[int, int], list[float]] = {}
        for repeat in range(options.repeats):
            for batch in usable:
                for index, elapsed in enumerate(
                    _chain(blocks, _frames(split, batch, options), options.device)
                ):
                    samples.setdefault((index, batch), []).append(elapsed)
            if step is not None:
                step(f"{split.model}: round {repeat + 1} of {options.repeats}")
    rows = [[samples[index, batch] for batch in usable] for index in range(split.block_count)]
    return Measurement(
        device=device_name(options.device, options.threads),
        batch_sizes=tuple(usable),
        latency_us=tuple(tuple(statistics.median(cell) for cell in row) for row in rows),
        spread=tuple(tuple(_spread(cell) for cell in row) for row in rows),
        notes=tuple(notes),
    )


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


def _block(split: Split, index: int, device: str) -> Run:
    module: Run = stage_module(split, BlockRange(index, index + 1)).to(device)
    return module


def _frames(split: Split, batch: int, options: MeasureOptions) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(options.seed)
    frames = torch.rand((batch, *split.input.shape), generator=generator)
    return (frames.to(TORCH_DTYPES[split.input.dtype]).to(options.device),)


def _warm_up(
    split: Split, blocks: Sequence[Run], batch_sizes: Sequence[int], options: MeasureOptions
) -> tuple[list[int], list[str]]:
    """The batch sizes that are worth timing and fit the device, with a note for each that does not."""
    usable: list[int] = []
    for batch in sorted(set(batch_sizes)):
        try:
            for _ in range(options.warm_up):
                times = _chain(blocks, _frames(split, batch, options), options.device)
        except torch.OutOfMemoryError:
            return usable, [f"batch {batch} and larger: out of memory on {options.device}"]
        usable.append(batch)
        if options.stop_us is not None and min(times) > options.stop_us:
            return usable, [f"batches over {batch}: no block meets the SLO of {options.stop_us / 1000:g} ms"]
    return usable, []


def _chain(blocks: Sequence[Run], values: tuple[torch.Tensor, ...], device: str) -> list[float]:
    """Microseconds of each block, the blocks run one after another."""
    if device.startswith("cuda"):
        return _chain_cuda(blocks, values)
    times = []
    for block in blocks:
        start = time.perf_counter()
        values = block(*values)
        times.append((time.perf_counter() - start) * 1e6)
    return times


def _chain_cuda(blocks: Sequence[Run], values: tuple[torch.Tensor, ...]) -> list[float]:
    event: Any = torch.cuda.Event
    marks = [event(enable_timing=True) for _ in range(len(blocks) + 1)]
    marks[0].record()
    for block, mark in zip(blocks, marks[1:], strict=True):
        values = block(*values)
        mark.record()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in itertools.pairwise(marks)]


def _spread(samples: Sequence[float]) -> float:
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / 2 / middle if middle else 0.0


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
