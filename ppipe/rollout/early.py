"""early.json: workers that were put onto servers before it was decided that they are needed.

It is written before the first of them is loaded and removed when none is there any more, or a rollout has
taken them over: whatever fails or is killed in between, who comes next unloads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner import serial
from planner.manifest import DeploymentManifest

EARLY_NAME = "early.json"


@dataclass(frozen=True)
class Early:
    """manifest: of the plan that would need them. began_with: which run of the servers they were loaded in;
    servers that are started anew do not have them. logs_from: where those servers' logs were then.
    """

    manifest: DeploymentManifest
    began_with: str
    workers: tuple[str, ...]
    logs_from: Mapping[str, int]


def save_early(early: Early, folder: Path) -> None:
    """Raises OSError."""
    serial.save(early, folder / EARLY_NAME)


def load_saved(folder: Path, run: str) -> Early | None:
    """What may be loaded early in this run of the servers. A file that cannot be read as one is none: it must
    not keep a fleet from being healed; what it named stays on its servers until they are started anew. Raises
    OSError.
    """
    path = folder / EARLY_NAME
    try:
        found = serial.load(Early, path) if path.is_file() else None
    except (serial.FormatError, UnicodeDecodeError):
        return None
    return found if found is not None and found.began_with == run else None


def forget_early(folder: Path) -> None:
    """Raises OSError."""
    (folder / EARLY_NAME).unlink(missing_ok=True)
