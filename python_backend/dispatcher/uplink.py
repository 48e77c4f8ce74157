"""The entry's uplink, which its models' dispatchers share: each tells the others when it sends, and hears
when they do (wire.shm.link_ledger).

Rules
- Where the ledger cannot be had, a dispatcher keeps to its share of the link, and the log says why.
- Tables may name other models than the one before. Their dispatchers then have another ledger; the old one
  is kept until the end, since whoever hears may be reading it.
- A decision is made between `hear` and `tell`, by one dispatcher at a time.
- `join` is called by whoever brings a table; all else by the thread that has its turn at the core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from planner.manifest import DeploymentManifest, ModelEntry
from python_backend.scheduler.events import LinkTaken
from python_backend.wire.shm.file import PREFIX_VARIABLE, ArenaError
from python_backend.wire.shm.link_ledger import LinkLedger


class Uplink:
    """See the module. Alone until it joins others."""

    def __init__(self, log: Callable[[str], None] = lambda text: None) -> None:
        self._log = log
        self._name = ""
        self._members: tuple[str, ...] = ()
        self._ledger: LinkLedger | None = None
        self._held: LinkLedger | None = None
        """Between hear and tell."""
        self._before: list[LinkLedger] = []

    def join(self, manifest: DeploymentManifest, entry: ModelEntry) -> bool:
        """Whether what the other models' dispatchers send will be told."""
        if entry.served.entry is None or not os.environ.get(PREFIX_VARIABLE):
            return False
        self._name = entry.served.entry.uplink
        members = tuple(sorted(model.dispatcher for model in manifest.models))
        if members != self._members:
            self._members = members
            if self._ledger is not None:
                self._before.append(self._ledger)
            self._ledger = self._open(members, entry) if len(members) > 1 else None
        return self._ledger is not None

    @property
    def shared(self) -> bool:
        """Whether there are others to hear and to tell."""
        return self._ledger is not None

    def hear(self) -> Sequence[LinkTaken]:
        """What others have taken of it since the last look. `tell` must follow."""
        ledger = self._held = self._ledger
        if ledger is None:
            return ()
        ledger.take_turn()
        return [LinkTaken(self._name, start_us, until_us) for start_us, until_us in ledger.news()]

    def tell(self, uses: Sequence[LinkTaken]) -> None:
        """What this model's frames take of it, by what was decided since `hear`."""
        if self._held is not None:
            for use in uses:
                self._held.tell(use.start_us, use.until_us)
            self._held.give_turn()
            self._held = None

    def close(self) -> None:
        """Let go of all memory."""
        for ledger in (*self._before, self._ledger):
            if ledger is not None:
                ledger.close()
        self._before, self._ledger = [], None

    def _open(self, members: Sequence[str], entry: ModelEntry) -> LinkLedger | None:
        try:
            return LinkLedger(members, entry.dispatcher)
        except (ArenaError, OSError) as error:
            self._log(f"{entry.model}: what others send over the entry's uplink is not known: {error}")
            return None
