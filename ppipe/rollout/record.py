"""rollout.json: how far the last rollout came. Written before each step and after it.

It is for those who look; a rollout that is taken up again goes by what the fleet shows, not by this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from planner import serial
from ppipe.workspace import save

RECORD_NAME = "rollout.json"


class RolloutStatus(Enum):
    """How a rollout stands."""

    UNDER_WAY = "under way"
    DONE = "done"
    TURNED_BACK = "turned back"
    """A step failed, and the fleet is at the revision from which it came."""
    FAILED = "failed"
    """A step failed, and so did the way back."""


@dataclass(frozen=True)
class RolloutRecord:
    """One rollout from revision `origin` to `target`. done: steps that have ended; doing: the one that was
    begun; '' between two. began_with: which run of the servers it was of.
    """

    deployment: str
    origin: int
    target: int
    why: str
    began: str
    steps: tuple[str, ...]
    began_with: str = ""
    done: int = 0
    doing: str = ""
    status: RolloutStatus = RolloutStatus.UNDER_WAY
    detail: str = ""

    @property
    def was_stopped(self) -> bool:
        """Whether it ended before its last step, and was not turned back."""
        return self.status in (RolloutStatus.UNDER_WAY, RolloutStatus.FAILED)


def save_record(record: RolloutRecord, folder: Path) -> None:
    """A reader sees the old one or the new one, never half of one."""
    save(record, folder / RECORD_NAME)


def load_record(folder: Path) -> RolloutRecord | None:
    """The last one; None where there was no rollout yet. Raises planner.serial.FormatError."""
    path = folder / RECORD_NAME
    return serial.load(RolloutRecord, path) if path.is_file() else None
