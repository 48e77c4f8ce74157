"""Latency on a GPU that is not there: a roofline per fused kernel, from a catalogue of data sheets.

A kernel takes   max(flops * b / (peak * sustained * efficiency[kind] * occupancy), bytes(b) / (bandwidth *
BANDWIDTH)) + LAUNCH_US, where occupancy = n / (n + FILL * multiprocessors) for n numbers written: small
kernels leave multiprocessors idle. Matrix kernels have the TF32 peak, others the FP32 peak. One of s slices
has 1 / s of multiprocessors, peak and bandwidth.

The constants hold for every class; they and each class's `sustained` were fitted together (see gpus).
Calibration: where another class was measured on the same split, each block's estimate is multiplied by what
measurement and estimate differ by there (geometric mean over the measured classes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from planner.plan import BlockRange
from planner.profile import LatencyTable, Source
from planner.profiling.gpus import Gpu, find_gpu
from planner.profiling.kernels import Kernel, Kind, kernels_of
from planner.profiling.split import Split

EFFICIENCY: Mapping[Kind, float] = {
    Kind.CONVOLUTION: 1.0,
    Kind.PRODUCT: 0.82,
    Kind.DEPTHWISE: 0.044,
}
"""Share of a dense convolution's speed; depthwise ones are compared with the FP32 peak."""
PASSES: Mapping[Kind, float] = {Kind.REDUCTION: 4.2}
"""How often the data is read and written, where that is not once."""
BANDWIDTH = 0.82
FILL = 2200.0
LAUNCH_US = 1.4


def kernel_us(kernel: Kernel, gpu: Gpu, slices: int, batch_size: int) -> float:
    """Microseconds of one kernel for a batch."""
    peak = gpu.matrix_tflops if kernel.kind in (Kind.CONVOLUTION, Kind.PRODUCT) else gpu.fp32
    moved = kernel.weight_bytes + kernel.activation_bytes * batch_size * PASSES.get(kernel.kind, 1.0)
    memory_us = moved * slices / (gpu.gbyte_per_s * 1e3 * BANDWIDTH)
    compute_us = 0.0
    if kernel.kind in EFFICIENCY and kernel.flops:
        numbers = max(kernel.outputs * batch_size, 1)
        occupancy = numbers / (numbers + FILL * gpu.multiprocessors / slices)
        speed = peak * 1e6 * gpu.sustained * EFFICIENCY[kernel.kind] * occupancy / slices
        compute_us = kernel.flops * batch_size / speed
    return max(compute_us, memory_us) + LAUNCH_US


def kernels_us(kernels: Sequence[Kernel], gpu: Gpu, slices: int, batch_size: int) -> float:
    """Microseconds of a run of kernels for a batch."""
    return sum(kernel_us(kernel, gpu, slices, batch_size) for kernel in kernels)


def estimated_tables(
    split: Split,
    class_name: str,
    batch_sizes: Sequence[int],
    max_slices: int = 1,
    measured: Sequence[LatencyTable] = (),
) -> list[LatencyTable]:
    """Tables of a class of the catalogue for 1 to `max_slices` slices, calibrated by measured tables.

    Raises KeyError for a class that the catalogue does not have.
    """
    gpu = find_gpu(class_name)
    kernels = block_kernels(split)
    sizes = tuple(sorted(set(batch_sizes)))
    factors = [
        [calibration(kernels[block], block, batch, measured) for batch in sizes]
        for block in range(len(kernels))
    ]
    return [
        LatencyTable(
            gpu=class_name,
            slices_per_gpu=slices,
            batch_sizes=sizes,
            latency_us=tuple(
                tuple(
                    kernels_us(run, gpu, slices, batch) * factor
                    for batch, factor in zip(sizes, block_factors, strict=True)
                )
                for run, block_factors in zip(kernels, factors, strict=True)
            ),
            source=Source.ESTIMATED,
        )
        for slices in range(1, max_slices + 1)
    ]


def block_kernels(split: Split) -> list[tuple[Kernel, ...]]:
    """The kernels of each block."""
    return [
        kernels_of(split.graph, split.operators(BlockRange(block, block + 1)))
        for block in range(split.block_count)
    ]


def calibration(
    kernels: Sequence[Kernel], block: int, batch_size: int, measured: Sequence[LatencyTable]
) -> float:
    """Measured / estimated for one block on the measured classes that the catalogue knows; 1 without any."""
    logs = []
    for table in measured:
        if table.source is not Source.MEASURED or batch_size not in table.batch_sizes:
            continue
        try:
            gpu = find_gpu(table.gpu)
        except KeyError:
            continue
        seen = table.latency_us[block][table.batch_sizes.index(batch_size)]
        if seen > 0:
            logs.append(math.log(seen / kernels_us(kernels, gpu, table.slices_per_gpu, batch_size)))
    return math.exp(sum(logs) / len(logs)) if logs else 1.0
