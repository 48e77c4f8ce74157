"""Which entry schedules a frame: the one at which it came, or an owner that gets to it sooner. Pure.

Rules
- Owners tell each other now and then how long a new frame waits with them (SchedulerCore.backlog_us). Between
  two tellings every frame that is passed on counts as one more that waits there.
- A frame is passed on where the other's wait, the hop there and `SPARE` of it are shorter than the own wait,
  and always from an entry that owns nothing of its model.
- A frame that is given up here goes to the owner at which it would still be in time, if there is one.
- It is passed on once: who gets a frame that was passed on schedules it, whatever its own wait, or gives it
  back where he owns nothing any more.
- A stream has a home, wherever its frames come: the owner that draws most for its name (`home`). When owners
  come and go, those streams move alone that were theirs, or become so.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

STALE_US: Final = 1_000_000
"""An owner not heard of for so long gets nothing."""


class Peer:
    """Another owner: what it said last, and what was sent there since. frame_us: 1e6 / its frames/s. hop_us:
    from here to it.
    """

    def __init__(self, frame_us: float, hop_us: int) -> None:
        self.frame_us: float = frame_us
        self.hop_us: int = hop_us
        self.said_us: int = -STALE_US
        self.backlog_us: int = 0
        self.sent: int = 0

    def wait_us(self, now_us: int) -> float:
        """How long a frame that is sent now waits there: what was said, less the time since, and what was
        sent."""
        return max(0.0, self.backlog_us - (now_us - self.said_us)) + self.sent * self.frame_us


class Forwarding:
    """Of one entry. hop_us: from here to a peer of which nothing else is known; spare_us: by how much a peer
    must be better.
    """

    def __init__(self, hop_us: int, spare_us: int) -> None:
        self.hop_us: int = hop_us
        self.spare_us: int = spare_us
        self.peers: dict[str, Peer] = {}

    def add(self, name: str, rate_rps: float) -> None:
        """Another entry with a shard of so many frames/s."""
        self.peers[name] = Peer(1e6 / rate_rps, self.hop_us)

    def remove(self, name: str) -> None:
        """It owns no shard any more."""
        self.peers.pop(name, None)

    def told(self, name: str, backlog_us: int, now_us: int) -> None:
        """What a peer says of itself."""
        peer = self.peers.get(name)
        if peer is not None:
            peer.said_us = now_us
            peer.backlog_us = backlog_us
            peer.sent = 0

    def silent(self, name: str) -> None:
        """It does not answer: it gets nothing until it is heard again."""
        peer = self.peers.get(name)
        if peer is not None:
            peer.said_us = -STALE_US

    def is_heard(self, name: str, now_us: int) -> bool:
        """Whether it owns something and was heard of lately."""
        peer = self.peers.get(name)
        return peer is not None and now_us - peer.said_us < STALE_US

    def home(self, stream: str, me: str, rate_rps: float, now_us: int) -> str:
        """The owner that a stream belongs to, of those heard of lately and of this one, `me`, if its rate_rps
        is above 0; '' where that is nobody. Owners get streams by their rates (weighted rendezvous hashing:
        Thaler and Ravishankar 1998, Schindelhauer and Schomaker 2005).
        """
        best, best_draw = (me, _draw(stream, me, rate_rps)) if rate_rps > 0 else ("", 0.0)
        for name, peer in self.peers.items():
            if self.is_heard(name, now_us):
                draw = _draw(stream, name, 1e6 / peer.frame_us)
                if draw > best_draw:
                    best, best_draw = name, draw
        return best

    def away(self, stream: str, me: str, rate_rps: float, now_us: int) -> str:
        """The peer to pass a stream's frame to, its home, which then counts as sent; '' to keep it."""
        home = self.home(stream, me, rate_rps, now_us)
        return "" if home == me else self._sent_to(home)

    def target(self, own_us: int, now_us: int) -> str:
        """The peer to pass a new frame to, which then counts as sent; '' to keep it. own_us: how long it
        would wait here; below 0: nothing is owned here."""
        best, best_us = self._soonest(1, now_us)
        if best and (own_us < 0 or best_us + self.spare_us < own_us):
            return self._sent_to(best)
        return ""

    def rescuer(self, served_us: int, left_us: int, now_us: int) -> str:
        """The peer at which a frame that is given up here would be in time, which then counts as sent; ''
        for none. served_us: what serving it takes once its turn comes; left_us: until its deadline."""
        best, best_us = self._soonest(2, now_us)
        if best and best_us + served_us < left_us:
            return self._sent_to(best)
        return ""

    def _sent_to(self, name: str) -> str:
        """The peer of this name, if any, with one more frame that waits there."""
        if name:
            self.peers[name].sent += 1
        return name

    def _soonest(self, hops: int, now_us: int) -> tuple[str, float]:
        """The peer with the shortest wait and so many hops, and that; '' where none was heard of lately."""
        best = ""
        best_us = 0.0
        for name, peer in self.peers.items():
            if self.is_heard(name, now_us):
                wait_us = peer.wait_us(now_us) + hops * peer.hop_us
                if not best or wait_us < best_us:
                    best, best_us = name, wait_us
        return best, best_us


def _draw(stream: str, name: str, rate_rps: float) -> float:
    """What an owner of so many frames/s draws for a stream, alike at every entry: the most is a given owner's
    with a chance in proportion to its rate.
    """
    text = f"{name}\0{stream}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big")
    return -rate_rps / math.log((number + 1) / (2.0**48 + 2.0))
