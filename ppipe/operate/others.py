"""What others do to a fleet beside the loop, seen from its files; and the revisions that the loop keeps.

Rules
- Files are read only when one has changed: the loop looks at each turn.
- A revision that was kept and to which no rollout was begun, as while another is under way, is forgotten: a
  loop that tries again and again would leave a file each time.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan
from planner.revision import TABLE_NAME, run_of
from ppipe.operate.loss_plans import ServedNow
from ppipe.operate.served import what_is_served
from ppipe.rollout.deployed import Deployed, start_of
from ppipe.rollout.record import load_record


class ActedOn(Enum):
    """How a fleet stands, where it is not served by another revision than is known."""

    NOT = "not"
    UNDER_WAY = "under way"
    """A rollout was begun and has not ended, or was killed."""


class _Handed(NamedTuple):
    """What changes whenever another table is handed over, or servers begin with another revision."""

    run: str
    table_ns: int
    generated_ns: int


class Others:
    """See the module."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        self._seen: _Handed | None = None
        """When what is served was last found to be as known."""

    def look(self, known: DeploymentManifest) -> ActedOn | ServedNow:
        """What is served now, if that is another revision than is known. Raises as start_of and
        what_is_served.
        """
        seen = self._handed_over()
        if seen == self._seen:
            return ActedOn.NOT
        start = start_of(self._deployed)
        if start.stopped is not None:
            return ActedOn.UNDER_WAY
        is_known = (start.manifest.epoch, start.manifest.plan_hash) == (known.epoch, known.plan_hash)
        served = ActedOn.NOT if is_known else what_is_served(self._deployed)
        self._seen = seen
        return served

    def keep(self, ready: DeploymentManifest, plan: Plan, served: int) -> DeploymentManifest:
        """Keep a revision for a rollout; with its number. served: the number of what is served. Raises
        OSError.
        """
        kept = self._deployed.kept
        manifest = replace(ready, epoch=kept.next_number(served))
        kept.keep(manifest, plan)
        return manifest

    def forget_unbegun(self, number: int) -> None:
        """After a rollout to it that failed. Raises OSError, FormatError."""
        record = load_record(self._deployed.workspace.root)
        if record is None or record.target != number:
            self._deployed.kept.forget(number)

    def _handed_over(self) -> _Handed:
        table, generated = self._deployed.tables / TABLE_NAME, self._deployed.repository / MANIFEST_NAME
        return _Handed(run_of(self._deployed.answers), _changed_ns(table), _changed_ns(generated))


def _changed_ns(path: Path) -> int:
    """0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
