"""The tables that a dispatcher serves by. A table is one revision's workers, the core that reserves on them,
the book of its batches, and how these are sent.

Rules
- One table is served at a time: it gets all frames. Those before it end the batches that they have sent.
- Batch ids count on from table to table, so a batch's id says whose it is.
- An older core has no frames any more, so it sends nothing: it is told how its batches end, and knows until
  when they hold workers.
- A table of which nothing is under way is left; whoever takes it (`take_left`) ends its threads and
  connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import NO_FENCES, Fence
from python_backend.dispatcher.hops import Failed, Hops, Served
from python_backend.dispatcher.metrics.drift import Drift
from python_backend.dispatcher.metrics.frame_drift import FrameDrift
from python_backend.dispatcher.overdue import Overdue
from python_backend.dispatcher.under_way import UnderWay
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import WorkerTaken
from python_backend.wire.http.sendings import Sendings
from python_backend.wire.transport import Transport


class ServedTable:
    """See the module. number: of the hand-over that brought it, 0 for deployment.json."""

    def __init__(
        self,
        number: int,
        manifest: DeploymentManifest,
        entry: ModelEntry,
        core: SchedulerCore,
        transport: Transport,
        served: Served,
        failed: Failed,
        log: Callable[[str], None],
        fences: Mapping[str, Fence] = NO_FENCES,
        sendings: Sendings | None = None,
    ) -> None:
        self.number: Final = number
        self.revision: Final = manifest.epoch
        self.plan_hash: Final = manifest.plan_hash
        self.entry: Final = entry
        self.whole: Final = manifest.model(entry.model)
        """The model with the workers of all entries; `entry` has those that are this one's."""
        self.time_us: Final = manifest.time_us(entry.model)
        """How long a frame has by plan."""
        self.core: Final = core
        self.first_batch = core.next_batch_id
        self.drift: Final = Drift(entry.served, log)
        self.frame_drift: Final = FrameDrift(entry.model, entry.served.entry, log)
        moved_us = (sendings or Sendings()).moved_us
        self.under_way: Final = UnderWay(Overdue(entry.served, entry.prepare is not None, moved_us))
        self.hops: Final = Hops(
            manifest, entry, transport, served, failed, log, self.under_way.is_given_up, fences
        )


class ServedTables:
    """The table that is served, and those before it with batches under way. Changed by one thread at a time,
    read by all.
    """

    def __init__(self, first: ServedTable) -> None:
        self.now = first
        self.older: list[ServedTable] = []
        """The latest first."""
        self._left: list[ServedTable] = []
        self._held_us: dict[str, int] = {}
        """Until when the core was told that older tables' batches hold its workers."""

    def all(self) -> list[ServedTable]:
        """The one that is served first."""
        return [self.now, *self.older]

    def with_batch(self, batch: int) -> ServedTable:
        """That sent a batch."""
        for table in self.all():
            if table.first_batch <= batch:
                return table
        return self.now

    def serves_revision(self, revision: int) -> bool:
        """Whether batches of that revision may be under way."""
        return any(table.revision == revision for table in self.all())

    def replace(self, table: ServedTable) -> ServedTable:
        """Serve by another table, whose core has taken over (taking_over.py beside this); returns the one
        before, whose frames are given up.
        """
        before = self.now
        before.core.forget_frames()
        table.first_batch = before.core.next_batch_id
        self.older = [before, *self.older]
        self.now = table
        self._held_us = {each.worker: each.until_us for each in holds_by(self.older, table.core)}
        return before

    def refuse(self, table: ServedTable) -> None:
        """It is not served after all; nothing of it is under way."""
        self._left.append(table)

    def holds(self) -> list[WorkerTaken]:
        """Until when batches of older tables hold workers of the one that is served, where that has changed
        since the last call.
        """
        holds = holds_by(self.older, self.now.core)
        changed = [each for each in holds if self._held_us.get(each.worker, 0) != each.until_us]
        for each in changed:
            self._held_us[each.worker] = each.until_us
        return changed

    def leave_if_over(self, table: ServedTable) -> None:
        """Let go of an older table if nothing of it is under way."""
        if len(table.under_way) == 0 and table in self.older:
            self.older = [each for each in self.older if each is not table]
            self._left.append(table)

    def take_left(self) -> list[ServedTable]:
        """Those that were left since the last call."""
        left, self._left = self._left, []
        return left

    def close(self) -> None:
        """End threads and connections of all tables."""
        for table in (*self.all(), *self.take_left()):
            table.hops.close()


def holds_by(tables: Iterable[ServedTable], core: SchedulerCore) -> list[WorkerTaken]:
    """Until when batches of these tables hold workers that `core` knows."""
    held_us: dict[str, int] = {}
    for table in tables:
        for worker, until_us in table.core.worker_busy_until_us().items():
            held_us[worker] = max(until_us, held_us.get(worker, 0))
    return [WorkerTaken(worker, until_us) for worker, until_us in held_us.items() if core.knows(worker)]
