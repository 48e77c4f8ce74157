"""What the steps that prepare a program must know: one program, one device, one set of options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from planner.execution import ExecutorOptions
from planner.profile import TensorSpec
from python_backend.stage.executors.errors import ProgramError

Tensors = tuple[torch.Tensor, ...]
Run = Callable[[Tensors], Tensors]
"""A prepared program: tensors on the device in, tensors on the device out, in positional order."""

TORCH_OF = {
    "BOOL": torch.bool, "INT8": torch.int8, "UINT8": torch.uint8, "INT16": torch.int16,
    "FP16": torch.float16, "BF16": torch.bfloat16, "INT32": torch.int32, "FP32": torch.float32,
    "INT64": torch.int64, "FP64": torch.float64,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """inputs and outputs are the program's, without the batch dimension."""

    options: ExecutorOptions
    device: torch.device
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    largest_batch: int

    def zeros(self, batch: int) -> Tensors:
        """A batch of the program's inputs."""
        return tuple(
            torch.zeros((batch, *spec.shape), dtype=torch_dtype(spec), device=self.device)
            for spec in self.inputs
        )


def torch_dtype(spec: TensorSpec) -> torch.dtype:
    """torch's type of a tensor. Raises ProgramError."""
    if spec.dtype not in TORCH_OF:
        raise ProgramError(f"tensor {spec.name}: dtype {spec.dtype} is not one of {', '.join(TORCH_OF)}")
    return TORCH_OF[spec.dtype]
