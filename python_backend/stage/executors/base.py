"""The interface of executors, and the one place that chooses among them.

torch is imported only by the executors that compute: an emulated stage starts in a tenth of the time and
memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from planner.cluster import Executor as Kind
from planner.ingress import PrepareRecipe
from planner.manifest import StageProgram
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
    module: Any = importlib.import_module("python_backend.stage.executors.torch_program")
    place = "cpu" if program.executor is Kind.CPU else device or "cuda:0"
    return cast(StageExecutor, module.TorchExecutor(program, root / program.program, place, prepare))
