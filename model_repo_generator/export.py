"""Exports the programs of splits, one for each block. torch is imported when there is work.

A plan needs the programs of its models' splits, whatever its cuts: what was exported for one plan serves all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from model_repo_generator import naming
from model_repo_generator.places import split_digest
from model_repo_generator.writing.write import hash_file
from planner import serial
from planner.cluster import Executor
from planner.deployment import Deployment
from planner.plan import BlockRange, Plan
from planner.profile import ModelProfile, Profile, ProgramFormat
from planner.programs import BlockProgram, ProgramList

if TYPE_CHECKING:
    from planner.profiling.split import Split

MOST_ONNX_BYTES = (1 << 31) - (1 << 20)
"""Of a message of protobuf, which one stage's blocks become."""


class ExportFault(ValueError):
    """A program that cannot be exported for this plan."""


@dataclass(frozen=True)
class SplitPrograms:
    """The programs of a model's split: a list and `block_count` files. `split`: as in names of workers."""

    model: str
    split: str
    block_count: int
    format: ProgramFormat = ProgramFormat.TORCH

    @property
    def list_path(self) -> str:
        """Of the list, relative to deployment.json's folder."""
        return naming.program_list(self.model, self.split)

    @property
    def block_paths(self) -> tuple[str, ...]:
        """Of each block."""
        return tuple(
            naming.block_program(self.model, self.split, block, self.format)
            for block in range(self.block_count)
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all files."""
        return (self.list_path, *self.block_paths)


def planned_programs(deployment: Deployment, profile: Profile, plan: Plan) -> tuple[SplitPrograms, ...]:
    """What a plan needs: of each model that some stage really runs. Raises ExportFault."""
    cluster = deployment.to_cluster()
    found = []
    for model in plan.models:
        stages = [
            stage.blocks
            for pipeline in model.pipelines
            for stage in pipeline.stages
            if cluster.gpu_class(stage.gpu).executor is not Executor.EMULATED
        ]
        if stages:
            spec, measured = deployment.model(model.model), profile.model(model.model)
            made = SplitPrograms(
                model.model, split_digest(spec, measured), measured.block_count, spec.program.format
            )
            _require_joinable(made, measured, stages)
            found.append(made)
    return tuple(sorted(found, key=lambda each: each.model))


class Exporter:
    """Exports programs of one deployment into a folder of its own; a context manager that deletes it.

    Kept for several plans of the same deployment, it exports each split once.
    """

    def __init__(self, deployment: Deployment, profile: Profile) -> None:
        self._deployment = deployment
        self._profile = profile
        self._made: dict[SplitPrograms, Mapping[str, Path]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="ppipe-export-")

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def programs(self, wanted: Iterable[SplitPrograms]) -> Mapping[str, Path]:
        """The files by their path in a repository.

        Raises ExportFault where a model no longer splits as it was profiled, profiling's ModelError.
        """
        files: dict[str, Path] = {}
        for each in wanted:
            if each not in self._made:
                self._made[each] = self._export(each)
            files |= self._made[each]
        return files

    def _export(self, wanted: SplitPrograms) -> Mapping[str, Path]:
        files = {path: Path(self._folder.name) / Path(path).name for path in wanted.paths}
        write_programs(self._split(wanted.model), wanted, files)
        return files

    def _split(self, model: str) -> Split:
        from planner.profiling.split import split_model

        split = split_model(self._deployment.model(model), self._deployment.to_cluster().gpu_classes)
        profiled = self._profile.model(model).split
        if split.digest != profiled:
            raise ExportFault(
                f"model {model!r} splits differently now ({split.digest}) than when it was profiled "
                f"({profiled or 'unknown'}): profile and plan again"
            )
        return split


def write_programs(split: Split, wanted: SplitPrograms, files: Mapping[str, Path]) -> None:
    """Write a split's programs; `files`: where, by path in a repository. Raises profiling's ModelError."""
    from planner.profiling.stages import save_stage  # seconds of torch, which most callers never need

    for block, path in enumerate(wanted.block_paths):
        save_stage(split, BlockRange(block, block + 1), files[path])
    listed = ProgramList(
        model=wanted.model,
        split=split.digest,
        format=wanted.format,
        blocks=tuple(_listed(files[path]) for path in wanted.block_paths),
    )
    serial.save(listed, files[wanted.list_path])


def hashes(programs: Mapping[str, Path]) -> Mapping[str, str]:
    """SHA-256 of each program file."""
    return {path: hash_file(file) for path, file in programs.items()}


def _listed(file: Path) -> BlockProgram:
    return BlockProgram(file=file.name, sha256=hash_file(file), bytes=file.stat().st_size)


def _require_joinable(made: SplitPrograms, profile: ModelProfile, stages: Iterable[BlockRange]) -> None:
    """Raises ExportFault for a stage whose blocks are too large for one ONNX program."""
    if made.format is not ProgramFormat.ONNX or not profile.weight_bytes:
        return
    for blocks in stages:
        size = sum(profile.weight_bytes[blocks.start : blocks.end])
        if size > MOST_ONNX_BYTES:
            raise ExportFault(
                f"model {made.model!r}: the weights of blocks {blocks.start} to {blocks.end - 1} are "
                f"{size / 2**30:.1f} GiB, and an ONNX stage holds 2: plan it in more stages (max_stages)"
            )
