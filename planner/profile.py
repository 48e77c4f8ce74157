"""Measurements of a model split into blocks: latency per GPU class, slices, block and batch; bytes across
each cut.

Blocks are numbered from 0; cut k lies after block k, so a model of n blocks has n - 1 cuts. Latencies are
microseconds
for a whole batch, bytes are per frame. Only data: making it is planner.profiling's work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from planner.execution import ExecutorOptions
from planner.frames import NO_COST, FrameCost
from planner.serial import LATER


class Source(Enum):
    """Where a latency comes from; carried through plan, table and report."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    STATED = "stated"
    """Chosen by the deployment for a padded or emulated class."""


class ProgramFormat(Enum):
    """What a network and its stages' programs are files of; also the ending of their names."""

    TORCH = "pt2"
    ONNX = "onnx"


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor of one frame. `dtype` is Triton's name (FP32, FP16, UINT8, ...); `shape` has no batch
    dimension.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes_per_frame(self) -> int:
        """Bytes of one frame of this tensor."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2,
    "INT32": 4, "UINT32": 4, "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class LatencyTable:
    """Block latencies on one kind of worker: `latency_us[block][i]` is for a batch of `batch_sizes[i]`
    frames.
    """

    gpu: str
    slices_per_gpu: int
    batch_sizes: tuple[int, ...]
    latency_us: tuple[tuple[float, ...], ...]
    source: Source = Source.MEASURED
    spread: tuple[tuple[float, ...], ...] = ()
    """Of a measured latency: half the interquartile range of its samples / their median; () where unknown."""
    expected_error: float | None = None
    """Of estimated latencies: median relative error to expect; None where they are not estimated."""
    beside_own_us: tuple[tuple[float, ...], ...] = field(default=(), metadata=LATER)
    """Of slices: while the GPU's other slices run the same model; () where other models were not timed, or it
    is the whole GPU. latency_us is the worse of this and the next.
    """
    beside_others_us: tuple[tuple[float, ...], ...] = field(default=(), metadata=LATER)
    """While the other slices run another model, the worst of those."""

    def __post_init__(self) -> None:
        where = f"latency table of {self.gpu} in {self.slices_per_gpu} slices"
        if self.slices_per_gpu < 1:
            raise ValueError(f"{where}: slices_per_gpu must be at least 1")
        if (
            not self.batch_sizes
            or list(self.batch_sizes) != sorted(set(self.batch_sizes))
            or self.batch_sizes[0] < 1
        ):
            raise ValueError(
                f"{where}: batch_sizes {self.batch_sizes} must be ascending, unique and at least 1"
            )
        for name in ("beside_own_us", "beside_others_us"):
            rows = getattr(self, name)
            if rows and [len(row) for row in rows] != [len(row) for row in self.latency_us]:
                raise ValueError(f"{where}: {name} needs a figure for each of latency_us, or none at all")
        for block, row in enumerate(self.latency_us):
            if len(row) != len(self.batch_sizes):
                raise ValueError(
                    f"{where}: block {block} has {len(row)} latencies for {len(self.batch_sizes)} batch sizes"
                )
            for batch, value in zip(self.batch_sizes, row, strict=True):
                if not (math.isfinite(value) and value >= 0):
                    raise ValueError(
                        f"{where}: block {block} at batch {batch}: {value} us is not a finite number >= 0"
                    )


@dataclass(frozen=True)
class Overheads:
    """Cost outside the blocks: per stage execution, and per hop a fixed part and one per byte. Zero in the
    paper's problems.
    """

    stage_us: float = 0.0
    hop_us: float = 0.0
    hop_us_per_byte: float = 0.0
    entry: FrameCost = NO_COST
    """Time of the entry's cores per frame: taking it in, sending it on, answering."""
    dispatch: FrameCost = field(default=NO_COST, metadata=LATER)
    """Time of the dispatcher's own process per frame, which no second core shortens: 1e6 over it is the most
    frames/s of one dispatcher (`scripts/benchmarks dispatch`)."""


@dataclass(frozen=True)
class ModelProfile:
    """One model's split and measurements.

    cut_bytes[k]: bytes per frame across the cut after block k, each tensor counted once.
    weight_bytes[block], activation_bytes[block]: memory of a block's weights, and its peak activations per
    frame;
    empty tuples mean that memory was not profiled.
    split: identifies the split; profiles can only be merged when it is equal.
    options: how measured blocks were run. precision_error: largest difference of the outputs so run from
    FP32, as a share of their range; None where nothing was measured.
    """

    model: str
    cut_bytes: tuple[int, ...]
    tables: tuple[LatencyTable, ...]
    block_names: tuple[str, ...] = ()
    cut_tensors: tuple[tuple[TensorSpec, ...], ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    weight_bytes: tuple[int, ...] = ()
    activation_bytes: tuple[int, ...] = ()
    overheads: Overheads = Overheads()
    split: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    options: ExecutorOptions = field(default_factory=ExecutorOptions)
    precision_error: float | None = None
    prepare: FrameCost | None = None
    """Of one frame on the first stage's host; None: clients send what the network takes."""
    imports: tuple[str, ...] = ()
    """Modules that stages import before they load a program: they register operators of other libraries."""
    finish_us: float = 0.0
    """Of one frame's answer on the last stage's host, on one core."""
    program_format: ProgramFormat = ProgramFormat.TORCH
    """Of the stages' programs."""

    def __post_init__(self) -> None:
        for table in self.tables:
            if len(table.latency_us) != self.block_count:
                raise ValueError(
                    f"profile of {self.model}: {len(table.latency_us)} blocks timed on {table.gpu} "
                    f"({table.slices_per_gpu} slices), but {len(self.cut_bytes)} cuts make {self.block_count}"
                )
        keys = [(table.gpu, table.slices_per_gpu) for table in self.tables]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(
                    f"profile of {self.model}: {key[0]} in {key[1]} slices is listed more than once"
                )

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return len(self.cut_bytes) + 1

    def table(self, gpu: str, slices_per_gpu: int) -> LatencyTable | None:
        """Latencies on one kind of worker, or None where it was not profiled."""
        for table in self.tables:
            if table.gpu == gpu and table.slices_per_gpu == slices_per_gpu:
                return table
        return None


@dataclass(frozen=True)
class Profile:
    """Profiles of all models of a deployment."""

    models: tuple[ModelProfile, ...]

    def model(self, name: str) -> ModelProfile:
        """The profile of `name`. Raises KeyError."""
        for model in self.models:
            if model.model == name:
                return model
        raise KeyError(f"no profile of model {name!r}; profiled: {', '.join(m.model for m in self.models)}")
