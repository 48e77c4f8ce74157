"""The highest term that a worker has seen of each shard: who comes with a lower one owns it no more.

Rules
- What was seen is forgotten when the worker ends: then an old owner may be served for as long as it takes it
  to look at its lease, which costs lateness and nothing else.
- A ticket without a fence is of a deployment with one entry.
"""

from __future__ import annotations

import threading

from python_backend.wire.ticket_codec import WireTicket

_MOST_SHARDS = 4096


class Fenced(Exception):
    """A ticket of an owner that another has replaced; the message ends with the term that was seen."""

    def __init__(self, shard: str, term: int, seen: int, hop: int) -> None:
        super().__init__(f"term {term} of shard {shard} has ended: its owner has term {seen}")
        self.hop = hop


class Fences:
    """See the module. Thread-safe."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def check(self, wire: WireTicket) -> None:
        """Remember the term of a genuine ticket's shard. Raises Fenced where a higher one was seen."""
        fences = wire.way.fences
        if not fences:
            return
        shard, term = fences[wire.hop]
        with self._lock:
            seen = self._seen.get(shard, 0)
            if term > seen and (seen or len(self._seen) < _MOST_SHARDS):
                self._seen[shard] = term
        if term < seen:
            raise Fenced(shard, term, seen, wire.hop)
