"""Runs an ONNX stage, on the CPU or on a GPU: the same steps as a torch one, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planner.ingress import PrepareRecipe
from planner.manifest import StageProgram
from python_backend.stage.executors.errors import ProgramError
from python_backend.stage.executors.onnx_join import OnnxProgram, joined
from python_backend.stage.executors.onnx_session import OnnxSession, SessionDevice
from python_backend.stage.executors.program_file import files_of, warm_sizes
from python_backend.wire.kserve import NUMPY_OF, Array


class OnnxExecutor:
    """ONNX files, joined, on one device, on one CPU thread."""

    def __init__(
        self, program: StageProgram, path: Path, device: str, prepare: PrepareRecipe | None = None
    ) -> None:
        """prepare: of a first stage that gets pixels as well. Raises ProgramError."""
        self._program = program
        self._recipe = prepare
        made = self._file(program, path)
        self._session = OnnxSession(
            made.content,
            made.inputs,
            program.outputs,
            program.options,
            SessionDevice(device=device, memory_bytes=program.memory_bytes),
            program.max_batch_size,
        )

    def _file(self, program: StageProgram, path: Path) -> OnnxProgram:
        return joined(list(files_of(program, path)), program.inputs, program.outputs)

    def run(self, inputs: Sequence[Any]) -> list[Array]:
        """See StageExecutor. Raises ProgramError."""
        return self._session.give(self._compute(inputs))

    def run_on_device(self, inputs: Sequence[Any]) -> list[Any]:
        """See StageExecutor. Raises ProgramError."""
        return list(self._compute(inputs))

    def warm_up(self) -> None:
        """Run every batch size once, the largest first; of many sizes, the powers of two."""
        for batch in sorted(warm_sizes(self._program.max_batch_size), reverse=True):
            self.run([np.zeros((batch, *spec.shape), NUMPY_OF[spec.dtype]) for spec in self._program.inputs])

    def _compute(self, inputs: Sequence[Any]) -> Sequence[Any]:
        try:
            return self._session.run(self._session.take(self._prepared(inputs)))
        except Exception as error:
            raise ProgramError(f"{self._program.program}: {error}") from error

    def _prepared(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """With pixels in place of the network's input made that input."""
        if self._recipe is None:
            return inputs
        return [
            normalised_batch(array, self._recipe) if _is_pixels(array, spec.dtype) else array
            for array, spec in zip(inputs, self._program.inputs, strict=True)
        ]


def _is_pixels(array: Any, dtype: str) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == np.uint8 and dtype != "UINT8"


def normalised_batch(pixels: Array, recipe: PrepareRecipe) -> Array:
    """[batch, height, width, channels] of uint8 to the network's input, as ensembles.prepare.pixels does it
    frame by frame.
    """
    std = np.asarray(recipe.std, dtype=np.float64)
    shape = (1, -1, 1, 1) if recipe.layout == "nchw" else (1, 1, 1, -1)
    factor = (recipe.scale / std).astype(np.float32).reshape(shape)
    offset = (np.asarray(recipe.mean, dtype=np.float64) / std).astype(np.float32).reshape(shape)
    planes = pixels.transpose(0, 3, 1, 2) if recipe.layout == "nchw" else pixels
    floats = planes.astype(np.float32, order="C")
    floats *= factor
    floats -= offset
    made: Array = floats.astype(NUMPY_OF[recipe.dtype], copy=False)
    return made
