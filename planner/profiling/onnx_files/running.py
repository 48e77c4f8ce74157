"""ONNX programs one after another on a device, on frames of noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import helper

from planner.profile import TensorSpec
from planner.profiling.network import Part, Running, Specs, Times
from planner.profiling.networks.errors import ModelError, first_line
from planner.profiling.onnx_files.tensors import ONNX_OF

Array = npt.NDArray[Any]
_NO_MEMORY = ("Failed to allocate memory", "out of memory", "bad allocation", "std::bad_alloc")


class OnnxRun(Protocol):
    """A program as a stage runs it; its values lie on its device."""

    def take(self, arrays: Sequence[Array]) -> Sequence[Any]:
        """Arrays of the host, on the device."""

    def run(self, values: Sequence[Any]) -> Sequence[Any]:
        """The outputs for one batch; complete when it returns."""

    def give(self, values: Sequence[Any]) -> Sequence[Array]:
        """Values of the device, on the host."""


class PlainRun:
    """The program on the CPU as ONNX Runtime runs it by default, on so many threads."""

    def __init__(self, program: bytes | str, threads: int = 1) -> None:
        """`program`: a file's content or its path. Raises what ONNX Runtime raises."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
        self.names = [each.name for each in self._session.get_inputs()]

    def take(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """See OnnxRun."""
        return arrays

    def run(self, values: Sequence[Array]) -> Sequence[Array]:
        """See OnnxRun."""
        made: Sequence[Array] = self._session.run(None, dict(zip(self.names, values, strict=True)))
        return made

    def give(self, values: Sequence[Array]) -> Sequence[Array]:
        """See OnnxRun."""
        return values


class OnnxChain:
    """See planner.profiling.network.LoadedPrograms."""

    def __init__(self, programs: Sequence[tuple[bytes, Part]], how: Running) -> None:
        """Raises ModelError for a program that ONNX Runtime does not take."""
        self._frame = programs[0][1].inputs
        self._how = how
        self.runs: list[OnnxRun] = [self._prepared(program, part) for program, part in programs]

    def _prepared(self, program: bytes, part: Part) -> OnnxRun:
        how = self._how
        try:
            if how.prepare is None:
                return PlainRun(program, how.threads)
            run: OnnxRun = how.prepare(
                program, part.inputs, part.outputs, how.executor, how.device, how.largest
            )
            return run
        except Exception as error:
            raise ModelError(f"ONNX Runtime does not take the program: {first_line(error)}") from error

    def times(self, batch: int, while_busy: Callable[[], None]) -> Times | None:
        """See Chain."""
        try:
            values = self.runs[0].take(noise_of(self._frame, batch, self._how.seed))
            times = []
            for run in self.runs:
                run.run(values)  # a worker runs one stage again and again: its caches are warm
                start = time.perf_counter()
                values = run.run(values)
                times.append((time.perf_counter() - start) * 1e6)
            while_busy()
            return tuple(times)
        except Exception as error:
            if isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
                return None
            raise

    def peaks(self, batch: int) -> Sequence[int]:
        """See Chain."""
        return ()

    def outputs(self, batch: int) -> Sequence[npt.NDArray[np.float64]]:
        """See Chain."""
        values = self.runs[0].take(noise_of(self._frame, batch, self._how.seed))
        for run in self.runs:
            values = run.run(values)
        return [array.astype(np.float64) for array in self.runs[-1].give(values)]


def noise_of(frame: Specs, batch: int, seed: int) -> list[Array]:
    """A batch of noise for each input: [0, 1) for real numbers, all up to 255 for whole ones."""
    return [_noise(spec, batch, np.random.default_rng((seed, index))) for index, spec in enumerate(frame)]


def _noise(spec: TensorSpec, batch: int, rng: np.random.Generator) -> Array:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(ONNX_OF[spec.dtype]))
    values = rng.random((batch, *spec.shape))
    most = 1 if dtype.kind == "f" else 2 if dtype.kind == "b" else 127 if spec.dtype == "INT8" else 255
    return (values * most).astype(dtype)
