"""How a running dispatcher is given another table, and how it says what became of that: two kinds of files.

Whoever rolls a plan out writes one file into the entry server's private folder; every dispatcher of that
server looks there, takes the new table in place, under load, and answers with a file of its own.

    <folder>/table.json                what is to be served from now on: HandOver
    <folder>/run                       the name of this run of the servers: another one after each start
    <folder>/<dispatcher>.ack.json     what this dispatcher serves, and what it refused: Ack; where there are
                                       several entries, <dispatcher>@<entry>.ack.json

Rules
- The folder is named by PPIPE_REVISIONS and is its owner's alone: who writes there decides where frames go.
  Without the variable a dispatcher serves deployment.json for as long as it lives.
- Files are replaced in one step (planner.serial.save), so a reader sees the old one or the new one, whole.
- `number` counts hand-overs, not revisions: a revision without the workers that are being replaced is a table
  of its own, and going back to an older revision is one more hand-over. A running dispatcher takes a table
  whose number is higher than any that it has served or refused.
- A dispatcher that starts finds table.json there and serves by it, not by deployment.json.
- A table that is refused changes nothing: the one before it goes on being served, and Ack.reason says why.
- Workers in `Ack.older_workers` still owe batches of tables before this one. They must stay loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from planner import serial
from planner.manifest import DeploymentManifest
from planner.serial import LATER

FOLDER_VARIABLE = "PPIPE_REVISIONS"
"""Environment variable of the entry server with the path of the folder."""
TABLE_NAME = "table.json"
RUN_NAME = "run"
_ACK_SUFFIX = ".ack.json"


@dataclass(frozen=True)
class HandOver:
    """A table to be served. manifest: as deployment.json says it, of the revision `manifest.epoch`, or of
    that revision less the workers that are not loaded.

    Every stage of every pipeline in it has a worker that is loaded and answers. What clients see of a model
    (name, inputs, outputs, SLO) must be what is served. run: of the servers that it is for; '' for any.
    """

    number: int
    manifest: DeploymentManifest
    run: str = field(default="", metadata=LATER)


@dataclass(frozen=True)
class Ack:
    """What one dispatcher serves. number, revision, plan_hash: of the table that new frames are served by;
    number 0: deployment.json, as it was when the dispatcher started.

    run: of the dispatcher's process; another one after a restart. older_batches: under way by tables before.
    refused: the number of the last table that was not taken, with its reason; 0: none since the last that
    was taken, or, with a reason, a file whose number cannot be read.
    """

    dispatcher: str
    """By its ack_name."""
    run: str
    number: int
    revision: int
    plan_hash: str
    older_batches: int = 0
    older_workers: tuple[str, ...] = ()
    refused: int = 0
    reason: str = ""

    def is_over(self, number: int) -> bool:
        """Whether that hand-over has been made and nothing of earlier tables is left."""
        return self.number == number and self.older_batches == 0


def ack_name(manifest: DeploymentManifest, entry: str, dispatcher: str) -> str:
    """Under which name a dispatcher of the entry server `entry` answers: those of several entries are called
    alike, and no model's name has an '@'.
    """
    return f"{dispatcher}@{entry}" if manifest.more_entries else dispatcher


def hand_over(folder: Path, table: HandOver) -> None:
    """Have the dispatchers that look at `folder` take a table. Raises OSError."""
    serial.save(table, folder / TABLE_NAME)


def read_hand_over(folder: Path, run: str = "") -> HandOver | None:
    """The table that is to be served; None where there is none, or none of this run. Raises OSError,
    serial.FormatError.
    """
    with contextlib.suppress(FileNotFoundError):
        table = serial.load(HandOver, folder / TABLE_NAME)
        return table if "" in (run, table.run) or table.run == run else None
    return None


def run_of(folder: Path) -> str:
    """The name of the run of the servers that look there; '' where none does."""
    try:
        return (folder / RUN_NAME).read_text(encoding="utf-8")
    except OSError:
        return ""


def write_ack(folder: Path, ack: Ack) -> None:
    """Say what a dispatcher serves. Raises OSError."""
    serial.save(ack, folder / f"{ack.dispatcher}{_ACK_SUFFIX}")


def read_acks(folder: Path, dispatchers: Iterable[str]) -> Mapping[str, Ack]:
    """What these dispatchers last said, by name, without those that said nothing yet. Raises OSError,
    planner.serial.FormatError.
    """
    found = {}
    for dispatcher in dispatchers:
        with contextlib.suppress(FileNotFoundError):
            found[dispatcher] = serial.load(Ack, folder / f"{dispatcher}{_ACK_SUFFIX}")
    return found
