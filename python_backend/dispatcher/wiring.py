"""What a dispatcher's parts tell each other that are made one after the other: datagrams that are no notices,
failures, and workers that were heard of.
"""

from __future__ import annotations

from collections.abc import Callable

from python_backend.dispatcher import recording
from python_backend.dispatcher.driver import Driver
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.entries.shard_owner import ShardOwner
from python_backend.dispatcher.health import Health
from python_backend.wire.hop_failure import HopFailure
from python_backend.wire.self_report import Reports
from python_backend.wire.signing.keys import Keys


class Wiring:
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
