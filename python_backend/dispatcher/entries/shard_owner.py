"""Serves what an entry owns of a model: another table is made and handed over whenever that changes.

Rules
- Tables are made by a thread of its own: making one takes longer than leases may wait to be renewed. Of
  several changes that came meanwhile only the last is served.
- A table that could not be made or taken is tried again, by the last hand-over that could be served.
- What is owned comes from the leases (leases.keeper); which workers that means, from the table that is
  served. Either may change at any time, so both changes go through here, one after the other.
- Another table may have other shards: leases of those that are no more are given up, and who has taken it
  before others may own workers with them for a moment.
- All workers of the model are looked after, owned or not: who adopts a shard knows which of them are lost.
- When the server that this process belongs to ends, nobody can send it frames any more: what is owned is left
  to the others and the process ends. Triton may let it live for seconds, with the ports that the next needs.
- A worker that refused our term has a newer owner: its shard is given up before anything else is sent there.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import OwnedPart, owned_part, shard_orders
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.tables.taking_over import TableFailed
from python_backend.leases.keeper import LeaseKeeper, Owned
from python_backend.leases.opening import open_store, times_of
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure

_LOOK_S: Final = 0.25
"""How often it is looked whether a table could be taken, and whether one is over."""
_ALONE_S: Final = 2.0
"""Without a worker that answers, until that is said: at a start none has been asked yet."""
_AGAIN_S: Final = 1.0
"""From a table that could not be served to the next try."""

Serve = Callable[[int, DeploymentManifest, ModelEntry, OwnedPart], None]
"""Serve by this part of a model's table from now on: the table's number and manifest, the whole model."""


class _Numbered(Protocol):
    @property
    def number(self) -> int:
        """Of the hand-over that brought a table."""


class Taker(Protocol):
    """Who takes tables, in a turn of his own, or finds that he cannot (dispatcher.driver)."""

    @property
    def failed_table(self) -> TableFailed | None:
        """The last that could not be served."""

    @property
    def table(self) -> _Numbered:
        """The one that is served."""


class ShardOwner:
    """Of one model's dispatcher on the entry that `manifest` is seen from. Thread-safe."""

    def __init__(
        self,
        number: int,
        manifest: DeploymentManifest,
        entry: ModelEntry,
        serve: Serve,
        lose: Callable[[str], None],
        reaches: Callable[[], bool],
        passing: PassingOn,
        taker: Taker,
        tidy: Callable[[bool], None],
        folder: Path | None,
        log: Callable[[str], None],
    ) -> None:
        """number: of the hand-over that brought the manifest. lose: send nothing more to this worker.
        reaches: whether any worker of the model answers. taker: of the tables that are served. tidy: called
        now and then, ends tables that are over; True where one was not taken. folder: of leases in files.
        Raises ValueError, OSError.
        """
        self._lose = lose
        self._parent = os.getppid()
        self._table = (number, manifest, entry)
        self._tables = {number: self._table}
        """By number, those that the taker may serve."""
        self._serve = serve
        self._passing = passing
        self._taker = taker
        self._tidy = tidy
        self._log = log
        self._said = ""
        self._owned: Owned = {}
        self._wanted: Owned = {}
        self._not_before_s = 0.0
        self._failed: TableFailed | None = None
        self._again = False
        self._closing = False
        self._alone_since_s = math.inf
        """Since when no worker answers."""
        self._has_said_alone = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shards", daemon=True)
        self._part = owned_part(entry, {})
        self._lock = threading.Lock()
        self._keeper = LeaseKeeper(
            open_store(manifest.leases, folder),
            manifest.entry.name,
            f"{manifest.deployment}/{entry.model}/",
            shard_orders(entry),
            now_us,
            changed=self.owns,
            ready=lambda: self._ready(reaches),
            lives=lambda: os.getppid() == self._parent,
            left=lambda: os._exit(1),
            times=times_of(manifest.leases),
            log=log,
        )

    def _ready(self, reaches: Callable[[], bool]) -> bool:
        """Whether a worker answers; said when none has for a while, and when one does again."""
        if reaches():
            if self._has_said_alone:
                self._log(f"{self.whole.model}: workers answer again")
            self._alone_since_s, self._has_said_alone = math.inf, False
            return True
        now_s = time.monotonic()
        self._alone_since_s = min(self._alone_since_s, now_s)
        if not self._has_said_alone and now_s - self._alone_since_s > _ALONE_S:
            self._has_said_alone = True
            self._log(
                f"{self.whole.model}: this entry reaches none of the model's workers: it takes no shard, and "
                "passes frames on where another entry owns one; is the way to the stage hosts open?"
            )
        return False

    def start(self) -> None:
        """Begin to hold leases."""
        self._thread.start()
        self._keeper.start()

    def close(self) -> None:
        """Leave what is owned to the other entries."""
        self._keeper.stop()
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def owned(self) -> Mapping[str, int]:
        """Terms by shard."""
        return self._owned

    @property
    def whole(self) -> ModelEntry:
        """The model with all of its workers, as the table says it that is served."""
        return self._table[2]

    def owner(self, shard: str) -> str:
        """Who owns a shard, as far as is known; '' for nobody."""
        return self._keeper.owner(shard)

    def take(self, number: int, manifest: DeploymentManifest, entry: ModelEntry) -> None:
        """Serve what is owned by another table. Raises what making it raises; then the last one stays."""
        with self._lock:
            part = owned_part(entry, self._owned)
            self._serve(number, manifest, entry, part)
            self._table = (number, manifest, entry)
            served = self._taker.table.number
            self._tables = {each: table for each, table in self._tables.items() if each >= served}
            self._tables[number] = self._table
            self._part = part
        self._follow(manifest, entry)
        self._tell(self._owned, part)

    def owns(self, owned: Owned) -> None:
        """Have these shards served from now on; waits for nothing."""
        self._wanted = owned
        self._wake.set()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(_LOOK_S)
            self._wake.clear()
            try:
                self._look()
            except Exception as error:
                self._not_before_s = time.monotonic() + _AGAIN_S
                self._say(f"{self.whole.model}: what is owned cannot be served: {error!r}")

    def _look(self) -> None:
        """Serve what is owned now, and end what is over. Raises what making a table raises."""
        self._tidy(self._has_failed())
        if self._closing or time.monotonic() < self._not_before_s:
            return
        with self._lock:
            owned = self._wanted
            if owned == self._owned and not self._again:
                return
            number, manifest, entry = self._table
            part = owned_part(entry, owned)
            self._say(f"{entry.model}: {_said(self._owned, owned) or 'serves what it owns anew'}")
            self._serve(number, manifest, entry, part)
            self._owned, self._part, self._again = owned, part, False
        self._tell(owned, part)

    def _follow(self, manifest: DeploymentManifest, entry: ModelEntry) -> None:
        """Another table may have other shards."""
        self._passing.serves(manifest, entry)
        self._keeper.reorder(shard_orders(entry))

    def _tell(self, owned: Owned, part: OwnedPart) -> None:
        """While a plan changes, a shard may be without a worker of some stage: nothing is served of it."""
        served = part.entry.served
        self._passing.owns(owned if served.pipelines else {}, served.planned_rps)

    def _has_failed(self) -> bool:
        """The driver takes a table in a turn of its own, and may find then that it cannot."""
        failed = self._taker.failed_table
        if failed is None or failed is self._failed:
            return False
        self._failed, self._again = failed, True
        self._not_before_s = time.monotonic() + _AGAIN_S
        with self._lock:
            back = self._tables.get(self._taker.table.number, self._table)
            changed, self._table = back is not self._table, back
        if changed:
            self._follow(back[1], back[2])
        return True

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._log(text)

    def failed(self, failure: HopFailure) -> None:
        """A hop failed; of one that a newer owner's worker refused, its shard is given up."""
        if failure.kind is FailureKind.FENCED:
            fence = self._part.fences.get(failure.worker)
            if fence is not None and failure.seen_term > fence.term:
                self._lose(failure.worker)  # until the table without it is taken
                self._keeper.refused(fence.shard, failure.seen_term)


def _said(before: Owned, now: Owned) -> str:
    gained = [f"shard {shard} with term {term}" for shard, term in now.items() if before.get(shard) != term]
    lost = [f"shard {shard}" for shard in before if shard not in now]
    said = [f"owns {', '.join(gained)}"] if gained else []
    return "; ".join([*said, *([f"gives up {', '.join(lost)}"] if lost else [])])
