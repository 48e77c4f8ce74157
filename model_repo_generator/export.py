"""Exports the stage programs of a plan, each range of blocks once. torch is imported when there is work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from model_repo_generator import naming
from model_repo_generator.write import hash_file
from planner.cluster import Executor
from planner.deployment import Deployment
from planner.plan import BlockRange, Plan
from planner.profile import Profile, ProgramFormat

if TYPE_CHECKING:
    from planner.profiling.split import Split


class ExportFault(ValueError):
    """A program that cannot be exported for this plan."""


@dataclass(frozen=True)
class StageRange:
    """Blocks of a model that some stage runs."""

    model: str
    blocks: BlockRange
    format: ProgramFormat = ProgramFormat.TORCH

    @property
    def path(self) -> str:
        """Where its program lies, relative to deployment.json's folder."""
        return naming.program_path(self.model, self.blocks.start, self.blocks.end, self.format)


def stage_ranges(deployment: Deployment, plan: Plan) -> tuple[StageRange, ...]:
    """What must be exported: every range once, emulated stages left out."""
    cluster = deployment.to_cluster()
    ranges = {
        StageRange(model.model, stage.blocks, deployment.model(model.model).program.format)
        for model in plan.models
        for pipeline in model.pipelines
        for stage in pipeline.stages
        if cluster.gpu_class(stage.gpu).executor is not Executor.EMULATED
    }
    return tuple(sorted(ranges, key=lambda each: each.path))


class Exporter:
    """Exports programs of one deployment into a folder of its own; a context manager that deletes it.

    Kept for several plans of the same deployment, it exports each model and each range once.
    """

    def __init__(self, deployment: Deployment, profile: Profile) -> None:
        self._deployment = deployment
        self._profile = profile
        self._splits: dict[str, Split] = {}
        self._made: dict[str, Path] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="ppipe-export-")

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def programs(self, ranges: Iterable[StageRange]) -> Mapping[str, Path]:
        """Files of the programs of `ranges` by their path in a repository.

        Raises ExportFault where the model no longer splits as it was profiled, profiling's ModelError.
        """
        return {each.path: self._made.get(each.path) or self._export(each) for each in ranges}

    def _export(self, wanted: StageRange) -> Path:
        from planner.profiling.stages import save_stage  # seconds of torch, which most callers never need

        file = Path(self._folder.name) / f"{len(self._made)}.{wanted.format.value}"
        save_stage(self._split(wanted.model), wanted.blocks, file)
        self._made[wanted.path] = file
        return file

    def _split(self, model: str) -> Split:
        from planner.profiling.split import split_model

        if model not in self._splits:
            split = split_model(self._deployment.model(model), self._deployment.to_cluster().gpu_classes)
            profiled = self._profile.model(model).split
            if split.digest != profiled:
                raise ExportFault(
                    f"model {model!r} splits differently now ({split.digest}) than when it was profiled "
                    f"({profiled or 'unknown'}): profile and plan again"
                )
            self._splits[model] = split
        return self._splits[model]


def hashes(programs: Mapping[str, Path]) -> Mapping[str, str]:
    """SHA-256 of each program file."""
    return {path: hash_file(file) for path, file in programs.items()}
