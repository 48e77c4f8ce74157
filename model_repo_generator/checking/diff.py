"""`ppipe diff A B`: what a change of plan does to each Triton model. A and B: plan files or repositories.

Of two repositories, what counts is where a model runs, on which GPU, its program and its settings. A worker
is named after its place and blocks, so another place or cut is another model. A kept one is not loaded anew.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan


class DiffFault(ValueError):
    """A side that is neither a plan nor a repository."""


class Change(Enum):
    """What happens to a Triton model, or to a planned worker."""

    ADDED = "added"
    REMOVED = "removed"
    MOVED = "moved"
    RELOADED = "reloaded"
    KEPT = "kept"


@dataclass(frozen=True)
class Unit:
    """One Triton model of a repository or one worker of a plan: where it runs, and what."""

    place: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class DiffRow:
    """One line of the table of changes."""

    change: Change
    name: str
    why: str = ""


def diff(one: Path, other: Path) -> tuple[DiffRow, ...]:
    """What becomes of each model from `one` to `other`, kept ones included. Raises DiffFault."""
    if one.is_dir() != other.is_dir():
        raise DiffFault(f"{one} and {other}: give two plan files or two generated repositories")
    return tuple(compare(load_units(one), load_units(other)))


def compare(old: Mapping[str, Unit], new: Mapping[str, Unit]) -> Iterator[DiffRow]:
    """Rows in the order of names."""
    for name in sorted({*old, *new}):
        if name not in old:
            yield DiffRow(change=Change.ADDED, name=name, why=f"on {new[name].place}")
        elif name not in new:
            yield DiffRow(change=Change.REMOVED, name=name, why=f"from {old[name].place}")
        else:
            yield _changed(name, old[name], new[name])


def load_units(path: Path) -> Mapping[str, Unit]:
    """Of a repository's folder or a plan's file. Raises DiffFault."""
    try:
        if path.is_dir():
            return dict(_repository_units(path, serial.load(DeploymentManifest, path / MANIFEST_NAME)))
        return dict(_plan_units(serial.load(Plan, path)))
    except (OSError, serial.FormatError, UnicodeDecodeError, text_format.ParseError) as error:
        raise DiffFault(f"{path}: neither a plan nor a generated repository: {error}") from error


def format_table(rows: Iterable[DiffRow], markdown: bool = False) -> str:
    """A table of all that is not kept, and a line that counts each kind."""
    rows = tuple(rows)
    counts = Counter(row.change for row in rows)
    summary = ", ".join(f"{counts[change]} {change.value}" for change in Change)
    shown = [(row.change.value, row.name, row.why) for row in rows if row.change is not Change.KEPT]
    if not shown:
        return f"{summary}\n"
    shown = [("change", "model", "why"), *shown]
    if markdown:
        lines = ["| " + " | ".join(_cell(text) for text in row) + " |" for row in shown]
        return "\n".join([lines[0], "|---|---|---|", *lines[1:], "", summary]) + "\n"
    widths = [max(len(row[column]) for row in shown) for column in (0, 1)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in shown]
    return "\n".join([*lines, summary]) + "\n"


def _changed(name: str, old: Unit, new: Unit) -> DiffRow:
    changes = [
        f"{fact} {old.facts.get(fact, 'none')} -> {new.facts.get(fact, 'none')}"
        for fact in sorted({*old.facts, *new.facts})
        if old.facts.get(fact) != new.facts.get(fact)
    ]
    if old.place != new.place:
        return DiffRow(
            change=Change.MOVED, name=name, why="; ".join([f"{old.place} -> {new.place}", *changes])
        )
    if changes:
        return DiffRow(change=Change.RELOADED, name=name, why="; ".join(changes))
    return DiffRow(change=Change.KEPT, name=name)


def _repository_units(root: Path, manifest: DeploymentManifest) -> Iterator[tuple[str, Unit]]:
    programs = {
        worker.name: program
        for entry in manifest.models
        for pipeline, row in zip(entry.served.pipelines, entry.programs, strict=True)
        for stage, program in zip(pipeline.stages, row, strict=True)
        for worker in stage.workers
    }
    for server in manifest.every_server:
        for name in server.models:
            folder = root / server.repository / name
            text = (folder / "config.pbtxt").read_text(encoding="utf-8")
            config = text_format.Parse(text, triton.ModelConfig())
            gpus = [gpu for group in config.instance_group for gpu in group.gpus]
            facts = {
                "settings": _settings(folder, config),
                "max batch": str(config.max_batch_size),
            }
            if name in programs:
                program = programs[name]
                name_of_program = Path(program.program).stem or "none"
                facts["program"] = f"{name_of_program} {program.program_sha256[:8]}".strip()
                facts["executor"] = program.executor.value
            place = server.name + (f" GPU {', '.join(map(str, gpus))}" if gpus else "")
            yield name, Unit(place=place, facts=facts)


def _settings(folder: Path, config: triton.ModelConfig) -> str:
    """Short hash of all that the folder says, but for what is a fact of its own."""
    rest = triton.ModelConfig()
    rest.CopyFrom(config)
    rest.ClearField("name")
    rest.max_batch_size = 0
    for group in rest.instance_group:
        del group.gpus[:]
    digest = hashlib.sha256(text_format.MessageToString(rest).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "config.pbtxt" and path.suffix != ".pyc":
            name = "version" if path.parent.name.isdigit() else path.name
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _plan_units(plan: Plan) -> Iterator[tuple[str, Unit]]:
    seats = {
        (seat.model, seat.pipeline, seat.stage, seat.worker): f"{seat.server} GPU {seat.gpu_id}"
        + (f" slice {seat.slice_index}" if seat.slice_index else "")
        for seat in (plan.placement.workers if plan.placement else ())
    }
    for model in plan.models:
        for p, pipeline in enumerate(model.pipelines):
            for s, stage in enumerate(pipeline.stages):
                facts = {
                    "blocks": f"{stage.blocks.start}-{stage.blocks.end}",
                    "batch": str(stage.batch_size),
                    "slices": str(stage.slices_per_gpu),
                }
                for w in range(stage.workers):
                    place = seats.get((model.model, p, s, w), stage.gpu)
                    name = f"{model.model} pipeline {p} stage {s} worker {w}"
                    yield name, Unit(place=place, facts=facts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
