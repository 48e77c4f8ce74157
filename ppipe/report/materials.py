"""What there is to report on: files told apart by what is in them, gathered into one or two lots.

Rules
- A folder is a lot of its own; files beside it complete it. Files make up one lot, until two are of a kind.
- What a folder holds and cannot be read is said on the page; a file that was asked for by name must be sound.
- Two lots at most: they are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from planner import serial
from planner.deployment import Deployment, DeploymentError, load_deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan
from planner.problem import Problem
from planner.profile import Profile
from ppipe.bench.score import Score
from ppipe.report.history_sections import START, read_history
from ppipe.report.runs import Run, read_runs
from ppipe.rollout.history import HistoryEntry
from ppipe.simulation.curve import AttainmentCurve
from python_backend.simulator.report import SimulationReport

SNIFFED = 4096
"""Bytes of a file that tell what it is."""
MAKERS = {
    "deployment": "the file that you write",
    "profile": "ppipe profile",
    "problem": "ppipe plan",
    "plan": "ppipe plan",
    "manifest": "ppipe generate",
    "runs": "ppipe simulate --events FILE.jsonl, or ppipe record",
    "simulations": "ppipe simulate --json > FILE.json",
    "curves": "ppipe simulate --curve FILE.json",
    "benches": "ppipe bench",
    "history": "ppipe rollout, or ppipe operate",
}
WANTED = ("deployment", "profile", "plan", "manifest", "runs", "benches")
"""Kinds that a page says it misses."""


class ReportError(ValueError):
    """What was given cannot be reported on."""


@dataclass(frozen=True)
class BenchResult:
    """One system of a result of `ppipe bench`."""

    seconds: float
    slo_us: Mapping[str, int]
    planned_rps: float | None
    total: Score
    models: Mapping[str, Score]


@dataclass
class Material:
    """All that was found for one side of the page."""

    label: str
    is_folder: bool = False
    deployment: Deployment | None = None
    profile: Profile | None = None
    problem: Problem | None = None
    plan: Plan | None = None
    manifest: DeploymentManifest | None = None
    runs: list[Run] = field(default_factory=list)
    simulations: list[SimulationReport] = field(default_factory=list)
    curves: list[AttainmentCurve] = field(default_factory=list)
    benches: dict[str, BenchResult] = field(default_factory=dict)
    history: list[HistoryEntry] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def has(self, kind: str) -> bool:
        """Whether something of the kind was found."""
        return bool(getattr(self, kind))

    @property
    def found(self) -> list[str]:
        """The kinds found."""
        return [kind for kind in MAKERS if self.has(kind)]

    @property
    def missing(self) -> list[str]:
        """What would complete the page, and how to make it; then what could not be read."""
        lines = [f"{_WORDS[kind]}: made by {MAKERS[kind]}" for kind in WANTED if not self.has(kind)]
        return [*lines, *self.faults]


_WORDS = {
    "deployment": "deployment.yaml",
    "profile": "profile.json",
    "problem": "problem.json",
    "plan": "plan.json",
    "manifest": "repository",
    "runs": "event log",
    "simulations": "simulation",
    "curves": "attainment curve",
    "benches": "bench result",
    "history": "history of rollouts",
}


def gather(paths: Sequence[Path]) -> list[Material]:
    """One lot or two. Raises ReportError, and what reading a file raises."""
    lots: list[Material] = []
    for path in paths:
        if not path.exists():
            raise ReportError(f"{path}: there is no such file or folder")
        if path.is_dir():
            _add_folder(lots, _folder(path))
        else:
            _add_file(lots, path)
    for lot in lots:
        if not lot.found:
            raise ReportError("\n".join([_nothing(lot.label), *lot.faults]))
    if len(lots) > 2:
        raise ReportError(
            f"{len(lots)} things to compare ({', '.join(lot.label for lot in lots)}); "
            "at most 2 go side by side"
        )
    if len(lots) == 2 and lots[0].label == lots[1].label:
        lots[0].label, lots[1].label = str(paths[0]), str(paths[-1])
    return lots


def _nothing(label: str) -> str:
    kinds = ", ".join(f"{_WORDS[kind]} ({MAKERS[kind]})" for kind in MAKERS)
    return f"{label}: nothing to report on; wanted any of {kinds}"


def _folder(path: Path) -> Material:
    lot = Material(str(path), is_folder=True)
    files = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
    nested = [path / name / MANIFEST_NAME for name in ("repository", "rehearsal")]
    for file in [*files, *(one for one in nested if one.is_file())]:
        kind = kind_of(file)
        if kind is None or (lot.has(kind) and kind not in _MANY):
            continue
        try:
            _READERS[kind](lot, file)
        except (ValueError, OSError, DeploymentError) as error:
            lot.faults.append(_fault(file, kind, error))
    return lot


def _add_folder(lots: list[Material], folder: Material) -> None:
    """Files before it that it lacks, such as the deployment, complete it."""
    if not lots or lots[-1].is_folder or set(lots[-1].found) & set(folder.found):
        lots.append(folder)
        return
    for kind in lots[-1].found:
        setattr(folder, kind, getattr(lots[-1], kind))
    lots[-1] = folder


def _add_file(lots: list[Material], path: Path) -> None:
    kind = kind_of(path)
    if kind is None:
        raise ReportError(_nothing(str(path)))
    if not lots or lots[-1].has(kind):
        lots.append(Material(str(path)))
    try:
        _READERS[kind](lots[-1], path)
    except (ValueError, DeploymentError) as error:
        raise ReportError(_fault(path, kind, error)) from error


def _fault(path: Path, kind: str, error: Exception) -> str:
    said = str(error) if str(path) in str(error) else f"{path}: {error}"
    if isinstance(error, serial.FormatError):
        said += f"; if another version of ppipe wrote it, make it anew with {MAKERS[kind]}"
    return said


def kind_of(path: Path) -> str | None:
    """What a file is, by what it begins with; None for anything else."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            start = file.read(SNIFFED)
    except OSError:
        return None
    if path.suffix in (".yaml", ".yml"):
        return "deployment" if "\ncluster:" in f"\n{start}" else None
    if path.suffix not in (".json", ".jsonl"):
        return None
    if start.startswith('{"event_log"') or (path.suffix == ".jsonl" and not start.strip()):
        return "runs"
    if path.suffix == ".jsonl":
        return "history" if start.startswith(START) else None
    return _kind_of_json(path)


def _kind_of_json(path: Path) -> str | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return {"plan.json": "plan", "profile.json": "profile", "problem.json": "problem"}.get(path.name)
    first = data[0] if isinstance(data, list) and data else data
    fields = set(first) if isinstance(first, dict) else set()
    for kind, marks in _MARKS.items():
        if marks <= fields:
            return kind
    return {"plan.json": "plan", "profile.json": "profile", "problem.json": "problem"}.get(path.name)


_MARKS = {
    "problem": {"cluster", "profile", "demands"},
    "manifest": {"deployment", "servers", "models"},
    "plan": {"planner", "objective", "models"},
    "curves": {"load_factors", "lines"},
    "simulations": {"policy", "arrivals", "attainment"},
    "benches": {"systems"},
    "profile": {"models"},
}
"""Fields that tell a kind of JSON; the first kind that fits."""


def _read_runs(lot: Material, path: Path) -> None:
    lot.runs += read_runs(path)


def _read_history(lot: Material, path: Path) -> None:
    lot.history, note = read_history(path)
    lot.faults += [note] if note else []


def _read_benches(lot: Material, path: Path) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    for name, plain in data["systems"].items():
        label = name if name not in lot.benches else f"{name} ({path.stem})"
        lot.benches[label] = serial.from_plain(BenchResult, plain, f"{path}: systems.{name}")


def _read_list(cls: type[Any], kind: str) -> Callable[[Material, Path], None]:
    def read(lot: Material, path: Path) -> None:
        data = json.loads(path.read_text(encoding="utf-8"))
        for plain in data if isinstance(data, list) else [data]:
            getattr(lot, kind).append(serial.from_plain(cls, plain, str(path)))

    return read


def _read_deployment(lot: Material, path: Path) -> None:
    try:
        lot.deployment = load_deployment(path)
    except yaml.YAMLError as error:
        raise ReportError(f"{path}: {error}") from error


def _read_one(cls: type[Any], kind: str) -> Callable[[Material, Path], None]:
    return lambda lot, path: setattr(lot, kind, serial.load(cls, path))


_MANY = ("runs", "simulations", "curves", "benches")
_READERS: Mapping[str, Callable[[Material, Path], None]] = {
    "deployment": _read_deployment,
    "profile": _read_one(Profile, "profile"),
    "problem": _read_one(Problem, "problem"),
    "plan": _read_one(Plan, "plan"),
    "manifest": _read_one(DeploymentManifest, "manifest"),
    "runs": _read_runs,
    "simulations": _read_list(SimulationReport, "simulations"),
    "curves": _read_list(AttainmentCurve, "curves"),
    "benches": _read_benches,
    "history": _read_history,
}
