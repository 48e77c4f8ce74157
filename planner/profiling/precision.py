"""How far a model's outputs move when its stages, or the tensors between them, have another precision than
FP32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from planner.execution import Compiler, ExecutorOptions, Precision
from planner.profiling.measuring.measure import MeasureOptions, chain_of
from planner.profiling.networks.errors import ModelError
from planner.profiling.split import Split

_BATCH = 2
Output = npt.NDArray[np.float64]
Outputs = Sequence[Output]


def precision_error(split: Split, options: MeasureOptions) -> float:
    """Largest difference from FP32 of any output, as a share of that output's range, on frames of noise.

    Both run block after block on the same device, not compiled. Raises ModelError where the outputs are not
    numbers: FP16 ends at 65504.
    """
    precision = options.executor.precision
    if precision is Precision.FP32 and not split.half_cuts:
        return 0.0
    chosen = _outputs(split, ExecutorOptions(precision=precision), options)
    whole = replace(split, half_cuts=False)
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


def _outputs(split: Split, executor: ExecutorOptions, options: MeasureOptions) -> Outputs:
    executor = replace(executor, compiler=Compiler.NONE)
    return chain_of(split, replace(options, executor=executor), _BATCH).outputs(_BATCH)


def _relative(one: Output, other: Output) -> float:
    width = float(other.max() - other.min())
    difference = float(np.abs(one - other).max())
    return difference / width if width else difference
