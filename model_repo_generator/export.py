"""Exports the stage programs of a plan, each range of blocks once. torch is imported when there is work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_repo_generator import naming
from model_repo_generator.write import hash_file
from planner.cluster import Executor
from planner.deployment import Deployment
from planner.plan import BlockRange, Plan
from planner.profile import Profile

if TYPE_CHECKING:
    from planner.profiling.split import Split


class ExportFault(ValueError):
    """A program that cannot be exported for this plan."""


@dataclass(frozen=True)
class StageRange:
    """Blocks of a model that some stage runs."""

    model: str
    blocks: BlockRange

    @property
    def path(self) -> str:
        """Where its program lies, relative to deployment.json's folder."""
        return naming.program_path(self.model, self.blocks.start, self.blocks.end)


def stage_ranges(deployment: Deployment, plan: Plan) -> tuple[StageRange, ...]:
    """What must be exported: every range once, emulated stages left out."""
    cluster = deployment.to_cluster()
    ranges = {
        StageRange(model.model, stage.blocks)
        for model in plan.models
        for pipeline in model.pipelines
        for stage in pipeline.stages
        if cluster.gpu_class(stage.gpu).executor is not Executor.EMULATED
    }
    return tuple(sorted(ranges, key=lambda each: each.path))


def export_programs(
    deployment: Deployment, profile: Profile, ranges: Iterable[StageRange], folder: Path
) -> Mapping[str, Path]:
    """Files of the programs of `ranges`, made in `folder`, by their path in a repository.

    Raises ExportFault where the model no longer splits as it was profiled, planner.profiling's ModelError.
    """
    made: dict[str, Path] = {}
    splits: dict[str, Split] = {}
    for each in ranges:
        if each.model not in splits:
            splits[each.model] = _split(deployment, profile, each.model)
        from planner.profiling.stages import save_stage

        made[each.path] = folder / f"{len(made)}.pt2"
        save_stage(splits[each.model], each.blocks, made[each.path])
    return made


def hashes(programs: Mapping[str, Path]) -> Mapping[str, str]:
    """SHA-256 of each program file."""
    return {path: hash_file(file) for path, file in programs.items()}


def _split(deployment: Deployment, profile: Profile, model: str) -> Split:
    from planner.profiling.split import split_model  # seconds of torch, which most callers never need

    split = split_model(deployment.model(model), deployment.to_cluster().gpu_classes)
    profiled = profile.model(model).split
    if split.digest != profiled:
        raise ExportFault(
            f"model {model!r} splits differently now ({split.digest}) than when it was profiled "
            f"({profiled or 'unknown'}): profile and plan again"
        )
    return split
