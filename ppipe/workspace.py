"""The working folder of a deployment: where each command puts its result and the next one finds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from planner import serial
from planner.plan import Plan
from planner.problem import Problem
from planner.profile import Profile

DEFAULT_PARENT = Path(".ppipe")

T = TypeVar("T")


class MissingResult(Exception):
    """A file that an earlier command makes is not there; the message names both."""


@dataclass(frozen=True)
class Workspace:
    """Files below `root`, by default .ppipe/<deployment>."""

    root: Path

    @classmethod
    def of(cls, deployment: str, root: Path | None) -> Workspace:
        """The folder asked for, or the default one of the deployment."""
        return cls(DEFAULT_PARENT / deployment if root is None else root)

    @property
    def profile(self) -> Path:
        """Measurements: what `ppipe profile` writes."""
        return self.root / "profile.json"

    @property
    def partial(self) -> Path:
        """Timings of a `ppipe profile` that was interrupted; the next one goes on from there."""
        return self.root / "profile.partial.jsonl"

    @property
    def overheads(self) -> Path:
        """What the two servers of `ppipe profile --overhead-servers` must serve."""
        return self.root / "overheads"

    @property
    def plan(self) -> Path:
        """What `ppipe plan` writes."""
        return self.root / "plan.json"

    @property
    def problem(self) -> Path:
        """What the plan is a plan of: what `ppipe plan` writes beside it."""
        return self.root / "problem.json"

    @property
    def repository(self) -> Path:
        """Model repositories and their manifest: what `ppipe generate` writes."""
        return self.root / "repository"

    @property
    def rehearsal(self) -> Path:
        """The same for this machine alone: what `ppipe generate --rehearse` writes."""
        return self.root / "rehearsal"

    @property
    def logs(self) -> Path:
        """One log per server."""
        return self.root / "logs"

    def load_profile(self) -> Profile:
        """Raises MissingResult, planner.serial.FormatError."""
        return _load(Profile, self.profile, "ppipe profile")

    def load_plan(self) -> Plan:
        """Raises MissingResult, planner.serial.FormatError."""
        return _load(Plan, self.plan, "ppipe plan")

    def load_problem(self) -> Problem:
        """Raises MissingResult, planner.serial.FormatError."""
        return _load(Problem, self.problem, "ppipe plan")


def save(record: object, path: Path) -> None:
    """Write a record; a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(serial.dumps(record), encoding="utf-8")
    unfinished.replace(path)


def _load(cls: type[T], path: Path, maker: str) -> T:
    if not path.is_file():
        raise MissingResult(f"{path} is not there yet; make it with {maker}")
    return serial.load(cls, path)
