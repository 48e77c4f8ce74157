"""A stage from the programs of its blocks, and from one program that was exported for the stage alone.

Both ways use the same executors; they differ in what these load. Run as a program it is a stage's process:

    python -m benchmarks.helpers.networks.block_ways WAY FOLDER  loads a stage, warms it up, prints the time
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planner import serial
from planner.manifest import StageProgram
from planner.profile import ProgramFormat
from python_backend.stage.executors.base import StageExecutor, make_executor
from python_backend.stage.executors.onnx_join import OnnxProgram
from python_backend.stage.executors.onnx_program import OnnxExecutor
from python_backend.stage.executors.program_file import files_of, format_of
from python_backend.wire.kserve import NUMPY_OF

WAYS = ("alone", "joined")
"""A program of the stage's own; its blocks', joined."""


def load(way: str, program: StageProgram, folder: Path) -> StageExecutor:
    """The stage, as it would serve. `program`: of that way, relative to the folder."""
    if way == "joined":
        return make_executor(program, folder, program.first_block == 0)
    path = folder / program.program
    if path.suffix == ".onnx":
        return _OnnxAlone(program, path, "cpu")
    return torch_alone(program, path)


def torch_alone(program: StageProgram, path: Path) -> StageExecutor:
    """A torch.export program as it is."""
    import torch
    from torch.fx import GraphModule

    from python_backend.stage.executors.torch_program import TorchExecutor

    class Alone(TorchExecutor):
        def _module(self, program: StageProgram, path: Path) -> GraphModule:
            return torch.export.load(path).module()

    return Alone(program, path, "cpu")


class _OnnxAlone(OnnxExecutor):
    """A file as it is."""

    def _file(self, program: StageProgram, path: Path) -> OnnxProgram:
        (content,) = files_of(program, path)
        return OnnxProgram(content, program.inputs)


def files(folder: Path, way: str) -> Sequence[Path]:
    """Where the stages' StagePrograms of a way lie, first stage first."""
    return sorted(folder.glob(f"{way}.*.json"))


def process(way: str, folder: Path) -> Mapping[str, float]:
    """What a stage's process has when it could serve: seconds and processor seconds since it had imported all
    that it needs, megabytes resident and at their most. The first stage of the folder.
    """
    program = serial.load(StageProgram, files(folder, way)[0])
    if format_of(program, folder / program.program) is ProgramFormat.TORCH:
        importlib.import_module("python_backend.stage.executors.torch_program")
    before_mb, began, used = _megabytes("VmRSS"), time.perf_counter(), time.process_time()
    executor = load(way, program, folder)
    executor.warm_up()
    took, cpu = time.perf_counter() - began, time.process_time() - used
    executor.run([np.zeros((1, *spec.shape), NUMPY_OF[spec.dtype]) for spec in program.inputs])
    return {
        "load_s": took,
        "load_cpu_s": cpu,
        "resident_mb": _megabytes("VmRSS") - before_mb,
        "peak_mb": _megabytes("VmHWM") - before_mb,
    }


def _megabytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    way, folder = arguments
    found: Any = process(way, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
