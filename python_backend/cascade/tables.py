"""Takes the cascade's parts of its SLO from tables that are handed over (planner.revision), and says so.

Rules
- A frame keeps the parts that it came with.
- Each member takes a table in a moment of its own. Until all have, a member has the longer of its two parts:
  neither the workers of the old plan lack time nor those of the new one, and nothing is partial for the
  change. The cascade serves by a table, as its ack says, once all members do.
- Of several entries each has its own cascade, which waits for the members of its own entry: frames that these
  pass on go to entries of the same revision alone (dispatcher.entries.passing).
- What a table changes for clients is refused.
- A folder that others may write in is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.cascades.served import CascadeEntry
from planner.manifest import DeploymentManifest
from planner.private_folder import PrivateFolder
from planner.revision import Ack, HandOver, ack_name, read_acks
from python_backend.wire.handed_over import (
    HandedOver,
    TableRefused,
    require_deployment,
    require_same,
    seen_from,
    taken_at_start,
)


@dataclass(frozen=True)
class CascadeTable:
    """A cascade as one table has it. number: of the hand-over; 0: deployment.json. manifest: seen from this
    entry.
    """

    number: int
    manifest: DeploymentManifest
    cascade: CascadeEntry

    @property
    def ack_name(self) -> str:
        """Under which the cascade of this entry answers."""
        return self._at_this_entry(self.cascade.name)

    @property
    def dispatchers(self) -> set[str]:
        """Under which its members' dispatchers of this entry answer."""
        models = (self.manifest.model(member.model) for member in self.cascade.members)
        return {self._at_this_entry(model.dispatcher) for model in models}

    def _at_this_entry(self, door: str) -> str:
        return ack_name(self.manifest, self.manifest.entry.name, door)


def check_cascade(manifest: DeploymentManifest, deployment: str, served: CascadeEntry) -> CascadeEntry:
    """The manifest's entry of the cascade that is served. Raises TableRefused."""
    require_deployment(manifest.deployment, deployment)
    found = next((one for one in manifest.cascades if one.name == served.name), None)
    if found is None:
        raise TableRefused(f"it has no cascade {served.name!r}, which is served here")
    require_same(
        f"cascades.{served.name}",
        "a cascade",
        (
            ("members", _ways(served), _ways(found)),
            ("slo_us", served.slo_us, found.slo_us),
            ("outputs", served.outputs, found.outputs),
            ("metrics_port", served.metrics_port, found.metrics_port),
            ("in_order", served.in_order, found.in_order),
        ),
    )
    return found


def _ways(cascade: CascadeEntry) -> tuple[object, ...]:
    return tuple((member.model, member.of, member.make, member.most) for member in cascade.members)


def table_at_start(
    folder: PrivateFolder | None,
    manifest: DeploymentManifest,
    cascade: CascadeEntry,
    log: Callable[[str], None],
) -> CascadeTable:
    """By the table that was handed over last, or else by deployment.json."""

    def take(table: HandOver) -> CascadeTable:
        return _checked(table, manifest, cascade)

    taken = taken_at_start(folder, f"cascade {cascade.name}", take, log)
    return taken or CascadeTable(0, manifest, cascade)


def _checked(table: HandOver, manifest: DeploymentManifest, cascade: CascadeEntry) -> CascadeTable:
    """The table's own of the cascade, and seen from the entry, that is served. Raises TableRefused."""
    seen = seen_from(table, manifest.entry.name).manifest
    return CascadeTable(table.number, seen, check_cascade(seen, manifest.deployment, cascade))


class CascadeTables:
    """Watches one folder for one cascade, on a thread of its own, until closed. serve: frames that come from
    now on have the parts of this entry.
    """

    def __init__(
        self,
        folder: PrivateFolder,
        start: CascadeTable,
        serve: Callable[[CascadeEntry], None],
        log: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._served = start
        self._coming: CascadeTable | None = None
        """Taken, and not yet served by all members."""
        self._parts = start.cascade
        """What frames get now."""
        self._serve = serve
        self._handed = HandedOver(folder, start.number, self.look, log)

    def start(self) -> None:
        """Begin to look."""
        self._handed.start()

    def close(self) -> None:
        """End the thread."""
        self._handed.close()

    def look(self) -> None:
        """Take what has come, and say what is served where that has changed. Raises OSError."""
        self._handed.take_new(self._take)
        if self._coming is not None and self._all_serve(self._coming):
            self._served, self._coming = self._coming, None
            self._serve_by(self._served.cascade)
        self._handed.say(self._ack())

    def _take(self, table: HandOver) -> None:
        self._coming = _checked(table, self._served.manifest, self._served.cascade)
        self._serve_by(self._parts.with_longest(self._coming.cascade))

    def _serve_by(self, cascade: CascadeEntry) -> None:
        self._parts = cascade
        self._serve(cascade)

    def _all_serve(self, table: CascadeTable) -> bool:
        acks = read_acks(self._folder.path, table.dispatchers)
        return all(name in acks and acks[name].number == table.number for name in table.dispatchers)

    def _ack(self) -> Ack:
        number, reason = self._handed.refused
        manifest = self._served.manifest
        return Ack(
            dispatcher=self._served.ack_name,
            run=self._handed.run,
            number=self._served.number,
            revision=manifest.epoch,
            plan_hash=manifest.plan_hash,
            refused=number,
            reason=reason,
        )
