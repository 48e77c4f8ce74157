"""Puts a dispatcher together from the manifest: core, driver, transport, notices, health."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from planner.manifest import DeploymentManifest, ModelEntry
from python_backend.runtime.driver import Driver, DriverSettings
from python_backend.runtime.feedback import NoticeReceiver
from python_backend.runtime.ticket_codec import Keys
from python_backend.runtime.transport import GrpcTransport, targets_of
from python_backend.scheduler.core import SchedulerCore


@dataclass(frozen=True)
class Dispatcher:
    """A running dispatcher and what must end with it."""

    driver: Driver
    receiver: NoticeReceiver
    listening: threading.Thread

    def close(self) -> None:
        """Answer what is left, end all threads, give up the port."""
        self.driver.close()
        self.receiver.close()
        self.listening.join()


def make_dispatcher(
    manifest: DeploymentManifest,
    entry: ModelEntry,
    parameters: Mapping[str, str],
    log: Callable[[str], None],
) -> Dispatcher:
    """The dispatcher of one model. Raises OSError when its feedback port is taken."""
    keys = Keys.from_environment()
    receiver = NoticeReceiver((manifest.entry.host, entry.feedback_port), keys)
    transport = GrpcTransport(targets_of(manifest, entry, own_host=manifest.entry.host), keys)
    transport.connect()
    driver = Driver(
        manifest=manifest,
        entry=entry,
        core=SchedulerCore(entry.served, policy=parameters.get("policy", "adaptive")),
        transport=transport,
        log=log,
        settings=DriverSettings(
            lead_us=int(parameters.get("lead_us", "1000")), serve_late=entry.late == "serve"
        ),
    )
    listening = threading.Thread(target=receiver.run, args=(driver.notice,), name="notices", daemon=True)
    listening.start()
    return Dispatcher(driver=driver, receiver=receiver, listening=listening)
