"""Makes the steps of a rollout, one after the other, on a fleet.

Rules
- Before each step and after it, the record is written; a process that is killed at any moment leaves a
  fleet from which steps_to makes the rest.
- A step that fails turns the rollout back to the revision from which it came, by steps that are made from
  what the fleet then shows. So the old plan serves on, with all of its workers. A step whose files cannot be
  written, as on a full disk, fails.
- Once the record says what is under way, only how far that has come is written to it: a rollout does not stop
  because that cannot be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from model_repo_generator.writing.write import WriteFault
from planner.rollout.fleet import FleetRevision, Loadable, Situation, Tables
from planner.rollout.steps import Step, StepKind, steps_to
from planner.serial import FormatError
from ppipe.rollout.record import RolloutRecord, RolloutStatus, save_record
from ppipe.rollout.text import step_text


class StepFailed(Exception):
    """A step that could not be made; the message names the server and what it said."""


class RunningFleet(Protocol):
    """What a rollout does to a running deployment."""

    def situation(self) -> Situation:
        """As it is now."""

    def load(self, workers: Sequence[Loadable]) -> None:
        """Returns when all of them answer. Raises StepFailed."""

    def unload(self, workers: Sequence[Loadable]) -> None:
        """Returns when none of them is there any more. Raises StepFailed."""

    def hand_over(self, tables: Tables, revision: int) -> None:
        """Returns when all dispatchers have these tables and nothing is under way by the old ones. Raises
        StepFailed.
        """


def roll_out(
    origin: FleetRevision,
    target: FleetRevision,
    fleet: RunningFleet,
    folder: Path,
    record: RolloutRecord,
    progress: Callable[[int, Sequence[Step]], None] = lambda done, steps: None,
    wanted_rps: Mapping[str, float] | None = None,
    settle: Callable[[int], None] = lambda revision: None,
) -> RolloutRecord:
    """The record of how it ended. `progress` hears how many of which steps are done. `settle` is given the
    revision that is served when all are, before that is recorded: killed in between, a rollout is taken up.

    Raises StepFailed when a step failed, with the fleet back at `origin`, or with the reason why it is not.
    """
    try:
        ended = _make_steps(target, fleet, folder, record, progress, wanted_rps)
    except StepFailed as failure:
        back = replace(record, detail=f"going back to revision {origin.number}: {failure}", doing="", done=0)
        try:
            _make_steps(origin, fleet, folder, back, progress, wanted_rps, first=_note)
        except StepFailed as second:
            detail = f"{failure}\nand the way back to revision {origin.number} failed: {second}"
            _note(replace(back, status=RolloutStatus.FAILED, detail=detail), folder)
            raise StepFailed(detail) from second
        turned = replace(back, status=RolloutStatus.TURNED_BACK, detail=str(failure))
        _settled(turned, origin.number, settle, folder)
        raise
    return _settled(replace(ended, status=RolloutStatus.DONE), target.number, settle, folder)


def _settled(
    ended: RolloutRecord, revision: int, settle: Callable[[int], None], folder: Path
) -> RolloutRecord:
    """Have servers begin with the revision from now on. Raises StepFailed where that cannot be written; all
    the same the revision serves, and whoever comes next takes the rollout up.
    """
    try:
        settle(revision)
        save_record(ended, folder)
    except (OSError, WriteFault) as error:
        raise StepFailed(
            f"revision {revision} is served, but that cannot be written down: {error}; roll out again once "
            "there is room, or servers that are started anew begin with the one before"
        ) from error
    return ended


def _make_steps(
    target: FleetRevision,
    fleet: RunningFleet,
    folder: Path,
    record: RolloutRecord,
    progress: Callable[[int, Sequence[Step]], None],
    wanted_rps: Mapping[str, float] | None,
    first: Callable[[RolloutRecord, Path], None] = save_record,
) -> RolloutRecord:
    """first: writes the record before the first step."""
    now = fleet.situation()
    steps = steps_to(target, now, wanted_rps)
    workers = {**now.workers, **target.workers}
    record = replace(record, steps=tuple(step_text(step) for step in steps))
    progress(0, steps)
    for done, step in enumerate(steps):
        begun = replace(record, done=done, doing=record.steps[done])
        (_note if done else first)(begun, folder)
        try:
            _make(step, fleet, workers, target.number)
        except (OSError, FormatError) as error:
            raise StepFailed(f"{record.steps[done]}: {error}") from error
        _note(replace(record, done=done + 1), folder)
        progress(done + 1, steps)
    return replace(record, done=len(steps))


def _note(record: RolloutRecord, folder: Path) -> None:
    """How far it has come, where that can be written."""
    with contextlib.suppress(OSError):
        save_record(record, folder)


def _make(step: Step, fleet: RunningFleet, workers: Mapping[str, Loadable], revision: int) -> None:
    named = [workers[name] for name in step.workers]
    if step.kind is StepKind.LOAD:
        fleet.load(named)
    elif step.kind is StepKind.UNLOAD:
        fleet.unload(named)
    else:
        assert step.tables is not None
        fleet.hand_over(step.tables, revision)
