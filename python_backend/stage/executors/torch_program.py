"""Runs the blocks of a stage with torch, on the CPU or on a GPU: the same code path, tensors move where they
must.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.fx import GraphModule

from planner.ingress import PrepareRecipe
from planner.manifest import StageProgram
from python_backend.stage.executors.errors import ProgramError
from python_backend.stage.executors.gpu_memory import limit_memory
from python_backend.stage.executors.handover import given
from python_backend.stage.executors.program_file import files_of, warm_sizes
from python_backend.stage.executors.prologue import Prologue
from python_backend.stage.executors.runner import build_run
from python_backend.stage.executors.staging import on_device, staging_of
from python_backend.stage.executors.task import Task, Tensors, torch_dtype
from python_backend.stage.executors.torch_join import joined
from python_backend.wire.kserve import NUMPY_OF, Array

__all__ = ["ProgramError", "TorchExecutor"]


class TorchExecutor:
    """Programs of torch.export, joined, on one device, on one CPU thread, without gradients."""

    def __init__(
        self, program: StageProgram, path: Path, device: str, prepare: PrepareRecipe | None = None
    ) -> None:
        """prepare: of a first stage that gets pixels as well; one that takes uint8 gets them as its input."""
        torch.set_num_threads(1)
        _import(program.imports)
        self._program = program
        self._device = torch.device(device)
        limit_memory(self._device, program.memory_bytes)
        self._staging = staging_of(self._device, program.options.pinned)
        task = Task(
            options=program.options,
            device=self._device,
            inputs=program.inputs,
            outputs=program.outputs,
            largest_batch=program.max_batch_size,
        )
        self._recipe = None if prepare is None or prepare.dtype == "UINT8" else prepare
        self._prologue: Prologue | None = None
        if (prepare := self._recipe) is not None:
            self._prologue = Prologue(prepare, torch_dtype(program.inputs[0]), self._device)
        self._run = build_run(self._module(program, path), task)

    def _module(self, program: StageProgram, path: Path) -> GraphModule:
        return joined(_loaded(program, path), program.inputs, program.outputs)

    def run(self, inputs: Sequence[Array | torch.Tensor]) -> list[Array]:
        """See StageExecutor. Raises ProgramError."""
        with torch.inference_mode():
            return self._staging.to_host(self._compute(inputs))

    def run_on_device(self, inputs: Sequence[Array | torch.Tensor]) -> list[torch.Tensor]:
        """See StageExecutor. Raises ProgramError."""
        with torch.inference_mode():
            return given(self._compute(inputs))

    def warm_up(self) -> None:
        """Run every batch size once, the largest first: the first run of a size is slow, and takes memory.

        Of many sizes, the powers of two.
        """
        sizes = warm_sizes(self._program.max_batch_size)
        for batch in sorted(sizes, reverse=True):
            self.run([np.zeros((batch, *spec.shape), NUMPY_OF[spec.dtype]) for spec in self._program.inputs])
        if (recipe := self._recipe) is not None:
            self.run([np.zeros((1, recipe.height, recipe.width, recipe.channels), np.uint8)])

    def _compute(self, inputs: Sequence[Array | torch.Tensor]) -> Tensors:
        tensors = on_device(self._staging, inputs, self._device)
        if (prologue := self._prologue) is not None:
            tensors = tuple(
                prologue(tensor) if tensor.dtype == torch.uint8 != torch_dtype(spec) else tensor
                for tensor, spec in zip(tensors, self._program.inputs, strict=True)
            )
        results = self._run(tensors)
        batch = len(inputs[0])
        for result, spec in zip(results, self._program.outputs, strict=True):
            if tuple(result.shape) != (batch, *spec.shape):
                raise ProgramError(
                    f"{self._program.program} gives {spec.name} {list(result.shape)} for a batch of {batch}, "
                    f"not {[batch, *spec.shape]}"
                )
        return results


def _import(modules: Sequence[str]) -> None:
    """Raises ProgramError for a module that registers operators and is not on this host."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module of the model's owner does
            raise ProgramError(
                f"{name} cannot be imported ({type(error).__name__}: {error}); the program's operators need "
                "it: install it on this host, or put it on PYTHONPATH"
            ) from error


def _loaded(program: StageProgram, path: Path) -> Iterator[GraphModule]:
    """The stage's blocks, one after another. Raises ProgramError."""
    for content in files_of(program, path):
        yield torch.export.load(io.BytesIO(content)).module()
