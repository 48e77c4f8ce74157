"""The interface of executors, and the one place that chooses among them.

torch and ONNX Runtime are imported only by the executors that compute with them: an emulated stage starts in
a tenth of the time and memory, and an ONNX one without torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from planner.cluster import Executor as Kind
from planner.ingress import PrepareRecipe
from planner.manifest import StageProgram
from planner.profile import ProgramFormat
from python_backend.stage.executors.program_file import format_of
from python_backend.wire.kserve import Array


class StageExecutor(Protocol):
    """Runs one stage's program on one worker. Called from one thread only."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The program's outputs for one batch, in positional order."""

    def run_on_device(self, inputs: Sequence[Any]) -> list[Any]:
        """As `run`, for a next stage on the same device: what has DLPack's interface, there, the caller's."""

    def warm_up(self) -> None:
        """Do what makes first batches slow, now."""


def make_executor(
    program: StageProgram,
    root: Path,
    first_stage: bool,
    device: str = "",
    prepare: PrepareRecipe | None = None,
) -> StageExecutor:
    """The executor of a stage. `root`: the manifest's folder; `device`: for cuda, such as 'cuda:1';
    `prepare`: of a first stage that gets pixels, in place of the program's input.
    """
    if program.executor is Kind.EMULATED:
        from python_backend.stage.executors.emulated import EmulatedExecutor

        return EmulatedExecutor(program, first_stage)
    path = root / program.program
    is_onnx = format_of(program, path) is ProgramFormat.ONNX
    name, kind = ("onnx_program", "OnnxExecutor") if is_onnx else ("torch_program", "TorchExecutor")
    module: Any = importlib.import_module(f"python_backend.stage.executors.{name}")
    place = "cpu" if program.executor is Kind.CPU else device or "cuda:0"
    return cast(StageExecutor, getattr(module, kind)(program, path, place, prepare))
