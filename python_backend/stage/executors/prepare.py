"""A program of any kind as planner.profiling prepares it to be timed: what is timed is what is served."""

from __future__ import annotations

from typing import Any

from planner.execution import ExecutorOptions
from planner.profile import TensorSpec


def prepare(
    program: Any,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    options: ExecutorOptions,
    device: str,
    largest_batch: int,
) -> Any:
    """The program as a stage runs it: of the content of an ONNX file an OnnxSession, of a torch module a Run
    (executors.runner).
    """
    if isinstance(program, bytes):
        from python_backend.stage.executors.onnx_session import OnnxSession, SessionDevice

        return OnnxSession(program, inputs, outputs, options, SessionDevice(device=device), largest_batch)
    from python_backend.stage.executors import runner

    return runner.prepare(program, inputs, outputs, options, device, largest_batch)
