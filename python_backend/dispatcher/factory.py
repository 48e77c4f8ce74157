"""Puts a dispatcher together from the manifest: core, driver, transport, notices, health."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from planner.manifest import DeploymentManifest, ModelEntry
from python_backend.dispatcher import recording
from python_backend.dispatcher.cancellations import Cancellations
from python_backend.dispatcher.driver import Driver, DriverSettings
from python_backend.dispatcher.health import Health
from python_backend.dispatcher.metrics.page import MetricsPage
from python_backend.scheduler.core import SchedulerCore
from python_backend.wire.chain_transport import ChainTransport
from python_backend.wire.feedback import Notice, NoticeReceiver
from python_backend.wire.hop_failure import HopFailure
from python_backend.wire.keys import Keys
from python_backend.wire.null_transport import NullTransport
from python_backend.wire.self_report import Reports
from python_backend.wire.shm.transport import make_transport
from python_backend.wire.transport import GrpcTransport, Target, Transport, targets_of


@dataclass(frozen=True)
class Dispatcher:
    """A running dispatcher and what must end with it."""

    name: str
    epoch: int
    driver: Driver
    health: Health
    reports: Reports
    cancellations: Cancellations
    receiver: NoticeReceiver
    listening: threading.Thread

    def close(self) -> None:
        """Answer what is left, end all threads, give up the port."""
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
    keys = Keys.from_environment(manifest.unsigned_tickets)
    reports = Reports(manifest.epoch, keys)
    links = _Links(keys, reports, entry.model)
    receiver = NoticeReceiver((manifest.entry.host, entry.feedback_port), keys, other=links.take)
    targets = targets_of(manifest, entry, own_host=manifest.entry.host)
    grpc = GrpcTransport(targets, keys, manifest.tls)
    grpc.connect()
    policy = parameters.get("policy", "adaptive")
    driver = Driver(
        manifest=manifest,
        entry=entry,
        # Notices of an earlier run, sent again, fit no batch of this one.
        core=SchedulerCore(entry.served, policy=policy, batch_ids_from=secrets.randbits(40)),
        transport=_transport(manifest, entry, grpc, targets, parameters, log),
        log=log,
        settings=DriverSettings(
            lead_us=int(parameters.get("lead_us", "1000")),
            policy=policy,
            record_mb=recording.size_at_start(parameters),
        ),
        on_failure=links.failed,
        on_seen=links.seen,
    )
    health = Health(targets, grpc, lost=driver.worker_lost, back=driver.worker_back, log=log)
    links.health = health
    links.driver = driver
    health.start()
    cancellations = Cancellations(driver)
    cancellations.start()

    def handle(notice: Notice) -> None:
        watch(notice)
        driver.notice(notice)

    listening = threading.Thread(target=receiver.run, args=(handle,), name="notices", daemon=True)
    listening.start()
    return Dispatcher(
        name=entry.dispatcher,
        epoch=manifest.epoch,
        driver=driver,
        health=health,
        reports=reports,
        cancellations=cancellations,
        receiver=receiver,
        listening=listening,
    )


def show_metrics(
    dispatcher: Dispatcher, manifest: DeploymentManifest, entry: ModelEntry, log: Callable[[str], None]
) -> MetricsPage | None:
    """The dispatcher's metrics on the TCP port with the number of its feedback port; None when it is
    taken, or prometheus_client is not installed: frames are served all the same.
    """
    try:
        from python_backend.dispatcher.metrics.prometheus import page
    except ModuleNotFoundError as error:
        log(f"{entry.dispatcher}: no metrics: {error}; pip install prometheus-client")
        return None
    address = (manifest.entry.host, entry.feedback_port)
    try:
        return MetricsPage(lambda openmetrics: page(dispatcher, entry.model, openmetrics), address)
    except OSError as error:
        log(f"{entry.dispatcher}: no metrics: TCP port {entry.feedback_port}: {error.strerror}")
        return None


def _transport(
    manifest: DeploymentManifest,
    entry: ModelEntry,
    grpc: GrpcTransport,
    targets: Mapping[str, Target],
    parameters: Mapping[str, str],
    log: Callable[[str], None],
) -> Transport:
    """By the parameter `transport`: 'auto' (default), 'grpc', or 'null' for measuring the dispatcher
    alone.
    """
    wanted = parameters.get("transport", "auto")
    if wanted == "null":
        return NullTransport(entry.outputs)
    if wanted == "grpc":
        return grpc
    hops = make_transport(grpc, targets, manifest, manifest.entry.name, entry.dispatcher, log)
    return ChainTransport(hops, entry) if entry.chains else hops


class _Links:
    """Lets driver, health and what listens know each other: the driver comes first."""

    health: Health | None = None
    driver: Driver | None = None

    def __init__(self, keys: Keys, reports: Reports, model: str) -> None:
        self._keys = keys
        self._reports = reports
        self._model = model

    def take(self, datagram: bytes) -> None:
        """A datagram that is no notice: what a process says of itself, or a recording that is asked for."""
        wanted = recording.decode(datagram, self._keys)
        if wanted is None:
            self._reports.take(datagram)
        elif self.driver is not None and wanted.model == self._model:
            self.driver.record(wanted)

    def failed(self, failure: HopFailure) -> None:
        if self.health is not None:
            self.health.failed(failure)

    def seen(self, worker: str) -> None:
        if self.health is not None:
            self.health.seen(worker)
