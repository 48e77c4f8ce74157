"""Puts a dispatcher together: core, driver, transport, notices, health. From the manifest, or from the table
that was handed over last where the environment names a folder for that (dispatcher.tables.revisions).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import OwnedPart, owned_part
from python_backend.dispatcher import recording
from python_backend.dispatcher.cancellations import Cancellations
from python_backend.dispatcher.driver import Driver, DriverSettings
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.entries.shard_owner import ShardOwner
from python_backend.dispatcher.entries.this_entry import this_entry
from python_backend.dispatcher.health import Health
from python_backend.dispatcher.metrics.page import Make, WantedPage, open_page
from python_backend.dispatcher.tables.making import PartsMaker, TableTaking
from python_backend.dispatcher.tables.revisions import Revisions, table_at_start
from python_backend.dispatcher.uplink import Uplink
from python_backend.dispatcher.wiring import Wiring
from python_backend.leases.opening import FOLDER_VARIABLE
from python_backend.wire import forwarded
from python_backend.wire.feedback import Notice, NoticeReceiver
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.handed_over import folder_of_tables
from python_backend.wire.http.sendings import Sendings
from python_backend.wire.self_report import Reports
from python_backend.wire.signing.keys import Keys, TicketError

_OWNER_S = 2.0
"""How long a dispatcher that starts waits until it, or another entry, is known to own something."""


@dataclass(frozen=True)
class Dispatcher:
    """A running dispatcher and what must end with it."""

    name: str
    driver: Driver
    health: Health
    reports: Reports
    cancellations: Cancellations
    receiver: NoticeReceiver
    listening: threading.Thread
    revisions: Revisions | None = None
    passing: PassingOn | None = None
    shards: ShardOwner | None = None
    """The last two where there are several entries."""

    def forwarded(self, text: str) -> Forwarded:
        """What another entry says of a frame that it passes on to this one. Raises TicketError."""
        if self.passing is None:
            raise TicketError(f"{forwarded.PARAMETER}: this deployment has one entry")
        return self.passing.read(text)

    def close(self) -> None:
        """Answer what is left, end all threads, give up the port."""
        if self.revisions is not None:
            self.revisions.close()
        if self.shards is not None:
            self.shards.close()
        if self.passing is not None:
            self.passing.close()
        self.health.close()
        self.cancellations.close()
        self.driver.close()
        self.receiver.close()
        self.listening.join()


def make_dispatcher(
    manifest: DeploymentManifest,
    entry: ModelEntry,
    parameters: Mapping[str, str],
    log: Callable[[str], None],
    watch: Callable[[Notice], None] = lambda notice: None,
) -> Dispatcher:
    """The dispatcher of one model. `watch` gets to see every notice. Raises OSError when its feedback port is
    taken.
    """
    folder = folder_of_tables(log)
    me = this_entry(manifest)
    manifest = manifest.seen_from(me)
    number, manifest, entry = table_at_start(folder, manifest, manifest.model(entry.model), log)
    keys = Keys.from_environment(manifest.unsigned_tickets)
    reports = Reports(keys)
    wiring = Wiring(keys, reports, entry.model, log)
    receiver = NoticeReceiver((manifest.entry.host, entry.feedback_port), keys, other=wiring.take)
    uplink = Uplink(log)
    sendings = Sendings()
    maker = PartsMaker(parameters, keys, log, uplink, sendings)
    passing = PassingOn(manifest, entry, keys, log) if entry.shards else None
    part = owned_part(entry, {}) if entry.shards else OwnedPart(entry, {})
    parts = maker.parts(manifest, entry, number, part.entry)
    driver = Driver(
        manifest=manifest,
        entry=part.entry,
        core=parts.core,
        transport=parts.transport,
        log=log,
        settings=DriverSettings(
            lead_us=int(parameters.get("lead_us", "1000")),
            policy=maker.policy,
            record_mb=recording.size_at_start(parameters),
        ),
        number=number,
        on_failure=wiring.failed,
        on_seen=wiring.seen,
        uplink=uplink,
        sendings=sendings,
        passing=passing,
        fences=part.fences,
    )
    health = Health(parts.targets, parts.prober, lost=driver.worker_lost, back=driver.worker_back, log=log)
    wiring.health = health
    wiring.driver = driver
    wiring.passing = passing
    health.start()
    cancellations = Cancellations(driver)
    cancellations.start()

    def handle(notice: Notice) -> None:
        watch(notice)
        driver.notice(notice)

    listening = threading.Thread(target=receiver.run, args=(handle,), name="notices", daemon=True)
    listening.start()

    taking = TableTaking(maker, parts, health, driver, closes_left=folder is None)
    shards = None
    if passing is not None:
        passing.start(driver.endings)
        leases = os.environ.get(FOLDER_VARIABLE)
        shards = taking.shards = wiring.shards = ShardOwner(
            number,
            manifest,
            entry,
            taking.serve,
            driver.worker_lost,
            health.reaches_any,
            passing,
            driver,
            taking.tidy,
            Path(leases) if leases else None,
            log,
        )
        shards.start()
        passing.wait_for_owner(_OWNER_S)
    revisions = None
    if folder is not None:
        revisions = Revisions(
            folder, manifest, driver, number, taking.whole, taking.take, taking.undo, taking.keep, log
        )
        revisions.start()
    return Dispatcher(
        name=entry.dispatcher,
        driver=driver,
        health=health,
        reports=reports,
        cancellations=cancellations,
        receiver=receiver,
        listening=listening,
        revisions=revisions,
        passing=passing,
        shards=shards,
    )


def show_metrics(
    dispatcher: Dispatcher, manifest: DeploymentManifest, entry: ModelEntry, log: Callable[[str], None]
) -> WantedPage | None:
    """The dispatcher's metrics on the TCP port with the number of its feedback port, as `open_page`."""

    def load() -> Make:
        from python_backend.dispatcher.metrics.prometheus import page

        return lambda openmetrics: page(dispatcher, entry.model, openmetrics)

    return open_page(entry.dispatcher, load, (manifest.entry.host, entry.feedback_port), log)
