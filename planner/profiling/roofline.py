"""Latency on a GPU that is not there: a roofline per fused kernel, from a catalogue of data sheets.

A kernel takes   flops * b / (peak * sustained * efficiency[kind] * occupancy * filling) + bytes(b) /
(bandwidth * share) + launch.
- Added, not the larger of the two: networks that were measured are described better so, and kernels that
  wait for memory before they compute are common.
- occupancy = n / (n + fill * multiprocessors) for n numbers written: small kernels leave multiprocessors
  idle. filling = c / (c + tile) for c output channels, at least NARROWEST, on tensor cores alone, which
  compute tiles of them.
- Matrix kernels have the peak of the precision that was chosen, on tensor cores where the class has them for
  it (gpus.DataSheet.matrix_unit); others the FP32 peak. In FP16 and BF16 all tensors have half the bytes.
- One of s slices has 1 / s of multiprocessors, peak and bandwidth.

The constants hold for every class; they and each class's `sustained` (see gpus) were fitted together to
public figures, held near what is written in PRIOR by a penalty (benchmarks.helpers.networks.estimate_fit).
`scripts/benchmarks estimate` fits them again without a network or a class to see how they do on others.
Calibration: where another class was measured on the same split, each block's estimate is multiplied by what
measurement and estimate differ by there (geometric mean over the measured classes).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.execution import Precision
from planner.plan import BlockRange
from planner.profile import LatencyTable, Source
from planner.profiling.gpus import DataSheet, find_gpu
from planner.profiling.kernels import Kernel, kernels_of
from planner.profiling.network import KernelKind
from planner.profiling.split import Split

Floats = npt.NDArray[np.float64]
KINDS = tuple(KernelKind)
CALIBRATED_ERROR = 0.1
"""Median relative error to expect where another class was measured on the same split."""
NARROWEST = 32
"""Output channels below which engines take other kernels, as fast as at so many."""
_WIDTH = {Precision.TF32: 1.0, Precision.FP32: 1.0, Precision.FP16: 0.5, Precision.BF16: 0.5}
"""Bytes of a number, as a share of those in the exported graph."""
MATRIX = (KernelKind.CONVOLUTION, KernelKind.PRODUCT)


@dataclass(frozen=True)
class Constants:
    """What holds for every class.

    `efficiency`: share of a dense convolution's speed; depthwise ones are compared with the FP32 peak; kinds
    that are not in it are bound by memory alone. `passes`: how often the data is read and written, where that
    is not once. `bandwidth`: share of the data sheet's. `fill`: numbers per multiprocessor, and `tile`:
    output channels, at which half of the speed is reached.
    """

    efficiency: Mapping[KernelKind, float]
    passes: Mapping[KernelKind, float]
    bandwidth: float
    fill: float
    tile: float
    launch_us: float


PRIOR = Constants(
    # Linear layers are convolutions of one pixel, less well tuned at small batches; a depthwise convolution
    # has no matrix product, and per multiply-add a load from memory that is not DRAM.
    efficiency={KernelKind.CONVOLUTION: 1.0, KernelKind.PRODUCT: 0.8, KernelKind.DEPTHWISE: 0.05},
    # Read for the statistics, read again and written: three halves of one reading and writing, and as much
    # again where mean and variance are two readings.
    passes={KernelKind.REDUCTION: 3.0},
    # What copies reach of the data sheet's bandwidth, 80 to 85 % (NVIDIA's bandwidthTest). Not fitted.
    bandwidth=0.83,
    # As many numbers as a multiprocessor has resident threads: 1024 (Turing) to 2048.
    fill=2000.0,
    # Half of the 128 output channels that the common tensor core tiles of cuDNN and CUTLASS are wide.
    tile=64.0,
    # Between two kernels of one stream, when the host keeps ahead.
    launch_us=2.0,
)
"""What the constants should be by what is known of GPUs."""

FITTED = Constants(
    efficiency={KernelKind.CONVOLUTION: 1.0, KernelKind.PRODUCT: 0.65, KernelKind.DEPTHWISE: 0.06},
    passes={KernelKind.REDUCTION: 2.7},
    bandwidth=PRIOR.bandwidth,
    fill=2000.0,
    tile=68.0,
    launch_us=PRIOR.launch_us,
)
"""What nine networks on four classes make of them."""


class Work:
    """Kernels as arrays, one row each."""

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        self._kinds = np.array([[KINDS.index(kernel.kind)] for kernel in kernels], dtype=np.intp)
        self._matrix = np.isin(self._kinds, [KINDS.index(kind) for kind in MATRIX])
        self._flops = _column(kernel.flops for kernel in kernels)
        self._activation_bytes = _column(kernel.activation_bytes for kernel in kernels)
        self._weight_bytes = _column(kernel.weight_bytes for kernel in kernels)
        self._outputs = _column(kernel.outputs for kernel in kernels)
        self._columns = _column(max(kernel.columns, NARROWEST) for kernel in kernels)

    def us(
        self,
        gpu: DataSheet,
        slices: int,
        batch_sizes: Sequence[int],
        constants: Constants = FITTED,
        precision: Precision = Precision.TF32,
    ) -> Floats:
        """Microseconds of all kernels together, per batch size."""
        batches = np.asarray(batch_sizes, dtype=np.float64)
        unit = gpu.matrix_unit(precision)
        efficiency = _of_kinds(constants.efficiency, 0.0)[self._kinds]
        passes = _of_kinds(constants.passes, 1.0)[self._kinds]
        moved = (self._weight_bytes + self._activation_bytes * batches * passes) * _WIDTH[precision]
        memory_us = moved * slices / (gpu.gbyte_per_s * 1e3 * constants.bandwidth)
        numbers = np.maximum(self._outputs * batches, 1)
        occupancy = numbers / (numbers + constants.fill * gpu.multiprocessors / slices)
        tile = constants.tile if unit.tensor_cores else 0.0
        filling = np.where(self._matrix, self._columns / (self._columns + tile), 1.0)
        peak = np.where(self._matrix, unit.tflops, gpu.fp32)
        speed = peak * 1e6 * unit.sustained * efficiency * occupancy * filling / slices
        compute_us = np.divide(self._flops * batches, speed, out=np.zeros_like(speed), where=speed > 0)
        times: Floats = (compute_us + memory_us + constants.launch_us).sum(axis=0)
        return times


def estimated_tables(
    split: Split,
    class_name: str,
    batch_sizes: Sequence[int],
    max_slices: int = 1,
    measured: Sequence[LatencyTable] = (),
    precision: Precision = Precision.TF32,
) -> list[LatencyTable]:
    """Tables of a class of the catalogue for 1 to `max_slices` slices, calibrated by measured tables, which
    must be of the same precision.

    Raises KeyError for a class that the catalogue does not have.
    """
    gpu = find_gpu(class_name)
    blocks = [Work(kernels) for kernels in block_kernels(split)]
    sizes = tuple(sorted(set(batch_sizes)))
    factors = [
        [calibration(work, block, batch, measured, precision) for batch in sizes]
        for block, work in enumerate(blocks)
    ]
    calibrated = any(factor != 1.0 for row in factors for factor in row)
    return [
        LatencyTable(
            gpu=class_name,
            slices_per_gpu=slices,
            batch_sizes=sizes,
            latency_us=tuple(
                tuple(
                    float(us) * factor
                    for us, factor in zip(
                        work.us(gpu, slices, sizes, precision=precision), block_factors, strict=True
                    )
                )
                for work, block_factors in zip(blocks, factors, strict=True)
            ),
            source=Source.ESTIMATED,
            expected_error=CALIBRATED_ERROR if calibrated else gpu.expected_error(precision),
        )
        for slices in range(1, max_slices + 1)
    ]


def block_kernels(split: Split) -> list[tuple[Kernel, ...]]:
    """The kernels of each block."""
    return [
        kernels_of(split.network, split.span(BlockRange(block, block + 1)))
        for block in range(split.block_count)
    ]


def calibration(
    work: Work, block: int, batch_size: int, measured: Sequence[LatencyTable], precision: Precision
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
            estimated = work.us(gpu, table.slices_per_gpu, [batch_size], precision=precision)[0]
            logs.append(math.log(seen / float(estimated)))
    return math.exp(sum(logs) / len(logs)) if logs else 1.0


def _column(values: Iterable[float]) -> Floats:
    return np.fromiter(values, dtype=np.float64)[:, np.newaxis]


def _of_kinds(values: Mapping[KernelKind, float], default: float) -> Floats:
    return np.array([values.get(kind, default) for kind in KINDS])
