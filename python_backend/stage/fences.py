"""The highest term that a worker has seen of each shard: who comes with a lower one owns it no more.

Rules
- What was seen is forgotten when the worker ends: then an old owner may be served for as long as it takes it
  to look at its lease, which costs lateness and nothing else.
- A ticket without a fence is of a deployment with one entry.
"""

from __future__ import annotations

import threading

from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import worker_of

_MOST_SHARDS = 4096


class Fences:
    """See the module. Thread-safe."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def check(self, wire: WireTicket) -> None:
        """Remember the term of a genuine ticket's shard. Raises HopFailure where a higher one was seen."""
        fences = wire.way.fences
        if not fences:
            return
        shard, term = fences[wire.hop]
        with self._lock:
            seen = self._seen.get(shard, 0)
            if term > seen and (seen or len(self._seen) < _MOST_SHARDS):
                self._seen[shard] = term
        if term < seen:
            # The term stands last: the dispatcher reads it there (HopFailure.seen_term).
            text = f"term {term} of shard {shard} has ended: its owner has term {seen}"
            raise HopFailure(FailureKind.FENCED, wire.hop, worker_of(wire), text)
