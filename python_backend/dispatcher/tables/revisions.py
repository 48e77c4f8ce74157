"""Takes tables that are handed over to a running dispatcher (planner.revision), and says what became of them.

Rules
- What a table changes for clients is refused: they go on calling the same Triton model.
- All that takes time, reading the file and making connections, is done here, beside the serving. The driver
  changes tables in one turn.
- Workers of an older table are looked after until nothing of it is under way.
- A folder that others may write in is not read: who writes there decides where frames go. That is looked at
  before each table.
- A table that the driver could not take changes nothing either: the workers of the one that is served are
  looked after as before (`undo`).
"""

from __future__ import annotations

from collections.abc import Callable

from planner.manifest import DeploymentManifest, ModelEntry
from planner.private_folder import PrivateFolder
from planner.revision import Ack, HandOver, ack_name
from python_backend.dispatcher.driver import Driver
from python_backend.dispatcher.tables.served_table import ServedTable
from python_backend.wire.handed_over import (
    HandedOver,
    TableRefused,
    require_deployment,
    require_same,
    seen_from,
    taken_at_start,
)


def check_table(table: HandOver, deployment: str, served: ModelEntry) -> ModelEntry:
    """The table's entry of the model that is served. Raises TableRefused."""
    manifest = table.manifest
    require_deployment(manifest.deployment, deployment)
    entry = next((each for each in manifest.models if each.model == served.model), None)
    if entry is None:
        raise TableRefused(f"it has no model {served.model!r}, which is served here")
    if not entry.served.pipelines:
        raise TableRefused(f"models.{served.model}: no pipeline, so nothing could serve it")
    # A cascade's member has a part of its SLO, which follows from the plan.
    is_member = manifest.cascade_of(served.model) is not None
    slo_us = served.served.slo_us if is_member else entry.served.slo_us
    require_same(
        f"models.{served.model}",
        "a dispatcher",
        (
            ("dispatcher", served.dispatcher, entry.dispatcher),
            ("feedback_port", served.feedback_port, entry.feedback_port),
            ("inputs", served.public_inputs, entry.public_inputs),
            ("outputs", served.outputs, entry.outputs),
            ("prepare", served.prepare, entry.prepare),
            ("late", served.late, entry.late),
            ("slo_us", served.served.slo_us, slo_us),
            ("longest_us", served.longest_us, entry.longest_us),
        ),
    )
    return entry


def table_at_start(
    folder: PrivateFolder | None, manifest: DeploymentManifest, entry: ModelEntry, log: Callable[[str], None]
) -> tuple[int, DeploymentManifest, ModelEntry]:
    """The table that was handed over last, with its number, or deployment.json's. manifest: seen from this
    entry.
    """

    def take(table: HandOver) -> tuple[int, DeploymentManifest, ModelEntry]:
        seen = seen_from(table, manifest.entry.name)
        return seen.number, seen.manifest, check_table(seen, manifest.deployment, entry)

    return taken_at_start(folder, entry.dispatcher, take, log) or (0, manifest, entry)


class Revisions:
    """Watches one folder for one dispatcher, on a thread of its own, until closed.

    manifest: seen from this entry. number: of the table that it was started with. whole: the model as it is
    served, with the workers of all entries. take: serves by a table from now on. keep: these workers are all
    that is looked after. undo: what was last taken is not served after all.
    """

    def __init__(
        self,
        folder: PrivateFolder,
        manifest: DeploymentManifest,
        driver: Driver,
        number: int,
        whole: Callable[[], ModelEntry],
        take: Callable[[HandOver, ModelEntry], None],
        undo: Callable[[], None],
        keep: Callable[[set[str]], None],
        log: Callable[[str], None],
    ) -> None:
        self._manifest = manifest
        self._driver = driver
        self._whole = whole
        self._take = take
        self._undo = undo
        self._keep = keep
        self._handed = HandedOver(folder, number, self.look, log)
        self._taken = number
        self._kept: set[str] | None = None
        self._settled: tuple[ServedTable, tuple[int, str]] | None = None
        """What was served, with nothing of older tables left, and refused, when all was last said of it."""

    def start(self) -> None:
        """Begin to look."""
        self._handed.start()

    def close(self) -> None:
        """End the thread."""
        self._handed.close()

    def look(self) -> None:
        """Take what has come, end what is over, and say what is served where that has changed. Raises
        OSError.
        """
        left = self._driver.take_left()
        self._take_back_failed()
        self._handed.take_new(self._take_table)
        now = self._driver.table, self._handed.refused
        if not left and not self._driver.older_tables and now == self._settled:
            return
        self._keep_workers()
        for table in left:
            table.hops.close()
        self._handed.say(self._ack())
        is_settled = not self._driver.older_tables and now[0].number == self._taken
        self._settled = now if is_settled else None

    def _take_table(self, table: HandOver) -> None:
        table = seen_from(table, self._manifest.entry.name)
        entry = check_table(table, self._manifest.deployment, self._whole())
        self._take(table, entry)
        self._taken = table.number

    def _take_back_failed(self) -> None:
        """The driver takes a table in a turn of its own, and may find then that it cannot."""
        failed = self._driver.failed_table
        if failed is not None and failed.number == self._taken != self._driver.table.number:
            self._taken = self._driver.table.number
            self._handed.refused = (failed.number, failed.reason)
            self._kept = None
            self._undo()

    def _keep_workers(self) -> None:
        if self._driver.table.number != self._taken:
            return  # the driver will take it in its next turn
        workers = {worker.name for _, worker in self._driver.table.entry.served.workers()}
        for older in self._driver.older_tables:
            workers |= {worker.name for _, worker in older.entry.served.workers()}
        if workers != self._kept:
            self._keep(workers)
            self._kept = workers

    def _ack(self) -> Ack:
        table, older = self._driver.table, self._driver.older_tables
        number, reason = self._handed.refused
        return Ack(
            dispatcher=ack_name(self._manifest, self._manifest.entry.name, table.entry.dispatcher),
            run=self._handed.run,
            number=table.number,
            revision=table.revision,
            plan_hash=table.plan_hash,
            older_batches=sum(len(each.under_way) for each in older),
            older_workers=tuple(sorted({worker for each in older for worker in each.under_way.owing()})),
            refused=number,
            reason=reason,
        )
