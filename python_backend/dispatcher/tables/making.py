"""Makes what a model's dispatcher needs anew for each table (connections, transport, scheduler core), and has
it looked after and served.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import OwnedPart
from planner.revision import HandOver
from python_backend.dispatcher.driver import Driver
from python_backend.dispatcher.entries.shard_owner import ShardOwner
from python_backend.dispatcher.health import Health, WorkerProber
from python_backend.dispatcher.uplink import Uplink
from python_backend.scheduler.core import SchedulerCore
from python_backend.wire.chain_transport import ChainTransport
from python_backend.wire.grpc.transport import GrpcTransport
from python_backend.wire.http.sendings import Sendings
from python_backend.wire.http.transport import HttpTransport
from python_backend.wire.null_transport import NullTransport
from python_backend.wire.shm.layout import MemoryLayout, layout_of_entry
from python_backend.wire.shm.transport import with_memory
from python_backend.wire.signing.keys import Keys
from python_backend.wire.transport import Target, Transport, targets_of


@dataclass(frozen=True, eq=False)
class TableParts:
    """What is made anew for each table."""

    targets: Mapping[str, Target]
    prober: WorkerProber
    transport: Transport
    core: SchedulerCore


class PartsMaker:
    """Makes the parts, for one model."""

    def __init__(
        self,
        parameters: Mapping[str, str],
        keys: Keys,
        log: Callable[[str], None],
        uplink: Uplink,
        sendings: Sendings,
    ) -> None:
        self.policy = parameters.get("policy", "adaptive")
        self._parameters = parameters
        self._keys = keys
        self._log = log
        self._uplink = uplink
        self._sendings = sendings
        self._parts = 0
        """Made so far, where there are shards: any two tables may be in use side by side."""

    def parts(
        self, manifest: DeploymentManifest, entry: ModelEntry, number: int, owned: ModelEntry
    ) -> TableParts:
        """number: of the hand-over. owned: of the model `entry`, what this dispatcher schedules."""
        # First what may refuse the table. Notices of an earlier run, sent again, fit no batch of this core.
        told = self._uplink.join(manifest, entry)
        ids_from = secrets.randbits(40)
        core = SchedulerCore(owned.served, policy=self.policy, batch_ids_from=ids_from, told=told)
        targets = targets_of(manifest, entry, own_host=manifest.entry.host)
        self._parts += int(bool(entry.shards))
        layout = layout_of_entry(manifest, number, self._parts)
        prober, transport = self._ways(manifest, owned, targets, layout)
        return TableParts(targets, prober, transport, core)

    def _ways(
        self,
        manifest: DeploymentManifest,
        entry: ModelEntry,
        targets: Mapping[str, Target],
        layout: MemoryLayout,
    ) -> tuple[WorkerProber, Transport]:
        """What asks workers, and what brings them batches: by the parameter `transport`, 'auto' (default),
        'grpc', or 'null' for measuring the dispatcher alone.
        """
        wanted = self._parameters.get("transport", "auto")
        grpc = GrpcTransport(targets, self._keys, manifest.tls)
        if manifest.tls is not None or wanted == "grpc":
            grpc.connect()
        if wanted == "grpc":
            return grpc, grpc
        near = HttpTransport(grpc, targets, far=manifest.tls is None, sendings=self._sendings)
        if wanted == "null":
            return near, NullTransport(entry.outputs)
        hops = with_memory(near, targets, layout, entry.dispatcher, self._log)
        return near, ChainTransport(hops, entry) if entry.chains else hops


class TableTaking:
    """Makes what a table needs, and has it looked after and served. One call at a time."""

    shards: ShardOwner | None = None
    """Where there are several entries."""

    def __init__(
        self, maker: PartsMaker, parts: TableParts, health: Health, driver: Driver, closes_left: bool
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
        self._health.look_after(made.targets, made.prober)
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
        self._health.look_after(served.targets, served.prober)

    def tidy(self, refused: bool) -> None:
        """Called now and then where there are several entries. refused: whether a table was not taken."""
        left = self._driver.take_left() if self._closes_left else []
        if left or refused:
            self.undo()  # workers may be asked over the connections of a table that was refused
        for table in left:
            table.hops.close()

    def _served(self) -> TableParts:
        """Those of the table that is served."""
        transport = self._driver.transport
        return next(parts for parts in self._parts if parts.transport is transport)
