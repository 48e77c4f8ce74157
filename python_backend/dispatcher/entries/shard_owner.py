"""Serves what an entry owns of a model: another table is made and handed over whenever that changes.

Rules
- What is owned comes from the leases (leases.keeper); which workers that means, from the table that is
  served. Either may change at any time, so both changes go through here, one after the other.
- All workers of the model are looked after, owned or not: who adopts a shard knows which of them are lost.
- When the server that this process belongs to ends, nobody can send it frames any more: what is owned is left
  to the others and the process ends. Triton may let it live for seconds, with the ports that the next needs.
- A worker that refused our term has a newer owner: its shard is given up before anything else is sent there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import OwnedPart, owned_part, shard_orders
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.leases.keeper import LeaseKeeper, Owned
from python_backend.leases.opening import open_store
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure

Serve = Callable[[int, DeploymentManifest, ModelEntry, OwnedPart], None]
"""Serve by this part of a model's table from now on: the table's number and manifest, the whole model."""


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
        folder: Path | None,
        log: Callable[[str], None],
    ) -> None:
        """number: of the hand-over that brought the manifest. lose: send nothing more to this worker.
        reaches: whether any worker of the model answers. folder: of leases in files. Raises ValueError,
        OSError.
        """
        self._lose = lose
        self._parent = os.getppid()
        self._table = (number, manifest, entry)
        self._serve = serve
        self._passing = passing
        self._log = log
        self._owned: Owned = {}
        self._part = owned_part(entry, {})
        self._lock = threading.Lock()
        self._keeper = LeaseKeeper(
            open_store(manifest.leases, folder),
            manifest.entry.name,
            f"{manifest.deployment}/{entry.model}/",
            shard_orders(entry),
            now_us,
            changed=self.owns,
            ready=reaches,
            lives=lambda: os.getppid() == self._parent,
            left=lambda: os._exit(1),
            log=log,
        )

    def start(self) -> None:
        """Begin to hold leases."""
        self._keeper.start()

    def close(self) -> None:
        """Leave what is owned to the other entries."""
        self._keeper.stop()

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
            self._part = part
        self._passing.serves(manifest, entry)

    def owns(self, owned: Owned) -> None:
        """Serve these shards from now on."""
        with self._lock:
            if owned == self._owned:
                return
            number, manifest, entry = self._table
            part = owned_part(entry, owned)
            self._log(f"{entry.model}: {_said(self._owned, owned)}")
            self._serve(number, manifest, entry, part)
            self._owned, self._part = owned, part
        self._passing.owns(owned, part.entry.served.planned_rps)

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
