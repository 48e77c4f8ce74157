"""How far a model's outputs move when its stages, or the tensors between them, have another precision than
FP32.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from planner.execution import Compiler, ExecutorOptions, Precision
from planner.profiling.measure import MeasureOptions, prepared_blocks
from planner.profiling.networks.errors import ModelError
from planner.profiling.split import Split
from planner.profiling.timing import Tensors, random_frames, torch_threads

_BATCH = 2


def precision_error(split: Split, options: MeasureOptions) -> float:
    """Largest difference from FP32 of any output, as a share of that output's range, on frames of noise.

    Both run block after block on the same device, not compiled. Raises ModelError where the outputs are not
    numbers: FP16 ends at 65504.
    """
    precision = options.executor.precision
    if precision is Precision.FP32 and not split.half_cuts:
        return 0.0
    chosen = _outputs(split, ExecutorOptions(precision=precision), options)
    whole = dataclasses.replace(split, half_cuts=False)
    exact = _outputs(whole, ExecutorOptions(precision=Precision.FP32), options)
    error = max(_relative(one, other) for one, other in zip(chosen, exact, strict=True))
    if not math.isfinite(error):
        raise ModelError(
            f"model {split.model}: in {precision.value}{_with_cuts(split)} its outputs are not finite "
            "numbers; set executor_options.precision to bf16, tf32 or fp32, and cut_dtype to fp32"
        )
    return error


def _with_cuts(split: Split) -> str:
    return " with FP16 between stages" if split.half_cuts else ""


def _outputs(split: Split, executor: ExecutorOptions, options: MeasureOptions) -> Tensors:
    executor = dataclasses.replace(executor, compiler=Compiler.NONE)
    with torch_threads(options.threads):
        blocks = prepared_blocks(split, executor, options, _BATCH)
        with torch.inference_mode():
            values = random_frames(split.input, _BATCH, options.device, options.seed)
            for block in blocks:
                values = block(values)
            return tuple(value.double() for value in values)


def _relative(one: torch.Tensor, other: torch.Tensor) -> float:
    width = float(other.max() - other.min())
    difference = float((one - other).abs().max())
    return difference / width if width else difference
