"""Puts a dispatcher together: core, driver, transport, notices, health. From the manifest, or from the table
that was handed over last where the environment names a folder for that (dispatcher.tables.revisions).
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import OwnedPart, owned_part
from planner.private_folder import PrivateFolder
from planner.revision import HandOver, read_hand_over
from python_backend.dispatcher import recording
from python_backend.dispatcher.cancellations import Cancellations
from python_backend.dispatcher.driver import Driver, DriverSettings
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.entries.shard_owner import ShardOwner
from python_backend.dispatcher.entries.this_entry import this_entry
from python_backend.dispatcher.health import Health
from python_backend.dispatcher.metrics.page import Make, MetricsPage, open_page
from python_backend.dispatcher.tables.revisions import (
    Revisions,
    TableRefused,
    check_table,
    revisions_folder,
    seen_from,
)
from python_backend.dispatcher.uplink import Uplink
from python_backend.leases.opening import FOLDER_VARIABLE
from python_backend.scheduler.core import SchedulerCore
from python_backend.wire import forwarded
from python_backend.wire.chain_transport import ChainTransport
from python_backend.wire.feedback import Notice, NoticeReceiver
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.hop_failure import HopFailure
from python_backend.wire.null_transport import NullTransport
from python_backend.wire.self_report import Reports
from python_backend.wire.shm.layout import MemoryLayout, layout_of_entry
from python_backend.wire.shm.transport import make_transport
from python_backend.wire.signing.keys import Keys, TicketError
from python_backend.wire.transport import GrpcTransport, Target, Transport, targets_of

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


@dataclass(frozen=True, eq=False)
class _Parts:
    """What is made anew for each table."""

    targets: Mapping[str, Target]
    grpc: GrpcTransport
    transport: Transport
    core: SchedulerCore


class _Maker:
    """Makes them, for one model."""

    def __init__(
        self, parameters: Mapping[str, str], keys: Keys, log: Callable[[str], None], uplink: Uplink
    ) -> None:
        self.policy = parameters.get("policy", "adaptive")
        self._parameters = parameters
        self._keys = keys
        self._log = log
        self._uplink = uplink
        self._parts = 0
        """Made so far, where there are shards: any two tables may be in use side by side."""

    def parts(
        self, manifest: DeploymentManifest, entry: ModelEntry, number: int, owned: ModelEntry
    ) -> _Parts:
        """number: of the hand-over. owned: of the model `entry`, what this dispatcher schedules."""
        # First what may refuse the table. Notices of an earlier run, sent again, fit no batch of this core.
        told = self._uplink.join(manifest, entry)
        ids_from = secrets.randbits(40)
        core = SchedulerCore(owned.served, policy=self.policy, batch_ids_from=ids_from, told=told)
        targets = targets_of(manifest, entry, own_host=manifest.entry.host)
        grpc = GrpcTransport(targets, self._keys, manifest.tls)
        grpc.connect()
        self._parts += int(bool(entry.shards))
        layout = layout_of_entry(manifest, number, self._parts)
        transport = _transport(manifest, owned, grpc, targets, self._parameters, self._log, layout)
        return _Parts(targets, grpc, transport, core)


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
    number, manifest, entry = _table_at_start(folder, manifest, manifest.model(entry.model), log)
    keys = Keys.from_environment(manifest.unsigned_tickets)
    reports = Reports(keys)
    links = _Links(keys, reports, entry.model, log)
    receiver = NoticeReceiver((manifest.entry.host, entry.feedback_port), keys, other=links.take)
    uplink = Uplink(log)
    maker = _Maker(parameters, keys, log, uplink)
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
        on_failure=links.failed,
        on_seen=links.seen,
        uplink=uplink,
        passing=passing,
        fences=part.fences,
    )
    health = Health(parts.targets, parts.grpc, lost=driver.worker_lost, back=driver.worker_back, log=log)
    links.health = health
    links.driver = driver
    links.passing = passing
    health.start()
    cancellations = Cancellations(driver)
    cancellations.start()

    def handle(notice: Notice) -> None:
        watch(notice)
        driver.notice(notice)

    listening = threading.Thread(target=receiver.run, args=(handle,), name="notices", daemon=True)
    listening.start()

    taking = _Taking(maker, parts, health, driver, closes_left=folder is None)
    shards = None
    if passing is not None:
        passing.start(driver)
        leases = os.environ.get(FOLDER_VARIABLE)
        shards = taking.shards = links.shards = ShardOwner(
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


class _Taking:
    """Makes what a table needs, and has it looked after and served. One call at a time."""

    shards: ShardOwner | None = None
    """Where there are several entries."""

    def __init__(
        self, maker: _Maker, parts: _Parts, health: Health, driver: Driver, closes_left: bool
    ) -> None:
        """closes_left: tables that are over, which Revisions does where tables are handed over."""
        self._maker = maker
        self._parts = [parts]
        """Of the tables that may be served, the latest last."""
        self._lock = threading.Lock()
        self._health = health
        self._driver = driver
        self._closes_left = closes_left

    def take(self, table: HandOver, new: ModelEntry) -> None:
        if self.shards is None:
            self.serve(table.number, table.manifest, new, OwnedPart(new, {}))
        else:
            self.shards.take(table.number, table.manifest, new)

    def whole(self) -> ModelEntry:
        """The model as it is served, with the workers of all entries."""
        return self._driver.table.entry if self.shards is None else self.shards.whole

    def serve(self, number: int, manifest: DeploymentManifest, entry: ModelEntry, part: OwnedPart) -> None:
        made = self._maker.parts(manifest, entry, number, part.entry)
        with self._lock:
            self._parts = [*self._parts[self._parts.index(self._served()) :], made]
        self._health.look_after(made.targets, made.grpc)
        own = {worker.name for _, worker in part.entry.served.workers()}
        self._health.leave_to_others(made.targets.keys() - own)
        self._driver.hand_over(number, manifest, part.entry, made.core, made.transport, part.fences)
        self._health.tell_lost()  # perhaps since before the driver knew them

    def keep(self, workers: Collection[str]) -> None:
        """Look after these, and where shards are owned after all of the model, for who adopts one."""
        whole = () if self.shards is None else self.shards.whole.served.workers()
        self._health.keep({*workers, *(worker.name for _, worker in whole)})

    def undo(self) -> None:
        with self._lock:
            served = self._served()
        self._health.look_after(served.targets, served.grpc)

    def tidy(self, refused: bool) -> None:
        """Called now and then where there are several entries. refused: whether a table was not taken."""
        left = self._driver.take_left() if self._closes_left else []
        if left or refused:
            self.undo()  # workers may be asked over the connections of a table that was refused
        for table in left:
            table.hops.close()

    def _served(self) -> _Parts:
        """Those of the table that is served."""
        transport = self._driver.transport
        return next(parts for parts in self._parts if parts.transport is transport)


def folder_of_tables(log: Callable[[str], None]) -> PrivateFolder | None:
    """Where tables are handed over; None, and the log says why, where that is nowhere safe."""
    try:
        return revisions_folder()
    except (TableRefused, OSError) as error:
        log(f"no tables are taken: {error}")
        return None


def _table_at_start(
    folder: PrivateFolder | None, manifest: DeploymentManifest, entry: ModelEntry, log: Callable[[str], None]
) -> tuple[int, DeploymentManifest, ModelEntry]:
    """The table that was handed over last, with its number, or deployment.json's."""
    try:
        table = None if folder is None else read_hand_over(folder.path)
        if table is not None:
            table = seen_from(table, manifest.entry.name)
            return table.number, table.manifest, check_table(table, manifest.deployment, entry)
    except (ValueError, OSError) as error:
        log(f"{entry.dispatcher}: serves by deployment.json: {error}")
    return 0, manifest, entry


def show_metrics(
    dispatcher: Dispatcher, manifest: DeploymentManifest, entry: ModelEntry, log: Callable[[str], None]
) -> MetricsPage | None:
    """The dispatcher's metrics on the TCP port with the number of its feedback port, as `open_page`."""

    def load() -> Make:
        from python_backend.dispatcher.metrics.prometheus import page

        return lambda openmetrics: page(dispatcher, entry.model, openmetrics)

    return open_page(entry.dispatcher, load, (manifest.entry.host, entry.feedback_port), log)


def _transport(
    manifest: DeploymentManifest,
    entry: ModelEntry,
    grpc: GrpcTransport,
    targets: Mapping[str, Target],
    parameters: Mapping[str, str],
    log: Callable[[str], None],
    layout: MemoryLayout,
) -> Transport:
    """By the parameter `transport`: 'auto' (default), 'grpc', or 'null' for measuring the dispatcher
    alone.
    """
    wanted = parameters.get("transport", "auto")
    if wanted == "null":
        return NullTransport(entry.outputs)
    if wanted == "grpc":
        return grpc
    hops = make_transport(grpc, targets, layout, entry.dispatcher, log, far=manifest.tls is None)
    return ChainTransport(hops, entry) if entry.chains else hops


class _Links:
    """Lets driver, health and what listens know each other: the driver comes first."""

    health: Health | None = None
    driver: Driver | None = None
    passing: PassingOn | None = None
    shards: ShardOwner | None = None

    def __init__(self, keys: Keys, reports: Reports, model: str, log: Callable[[str], None]) -> None:
        self._keys = keys
        self._reports = reports
        self._model = model
        self._log = log
        self._said = ""

    def take(self, datagram: bytes) -> None:
        """A datagram that is no notice: what a process says of itself, what another entry's dispatcher
        says, or a recording that is asked for. Whoever sent it, notices are read on.
        """
        try:
            self._take(datagram)
        except Exception as error:
            if (text := f"a datagram cannot be taken: {error!r}") != self._said:
                self._said = text
                self._log(text)

    def _take(self, datagram: bytes) -> None:
        if self.passing is not None and self.passing.take(datagram):
            return
        wanted = recording.decode(datagram, self._keys)
        if wanted is None:
            self._reports.take(datagram)
        elif self.driver is not None and wanted.model == self._model:
            self.driver.record(wanted)

    def failed(self, failure: HopFailure) -> None:
        if self.health is not None:
            self.health.failed(failure)
        if self.shards is not None:
            self.shards.failed(failure)

    def seen(self, worker: str) -> None:
        if self.health is not None:
            self.health.seen(worker)
