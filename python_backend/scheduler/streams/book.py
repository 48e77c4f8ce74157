"""The streams of a model: what each may send, which frame of it is the newest, and which are forgotten.

Rules
- Places of a stream rise from frame to frame. Of a frame whose place does not, nothing is kept.
- Where only the newest frame is kept, at most one frame of a stream waits, and it is the newest that came.
  What was sent before a newer one came goes on.
- A stream whose frames have all ended is forgotten some seconds after the last one came, so that memory
  follows what is sent now.
- Frames that name no stream belong together to one of their own, which keeps all and has neither places nor
  a limit of rate.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from planner.streams import PLAIN_WEIGHT, StreamPolicy
from python_backend.scheduler.actions import DropReason
from python_backend.scheduler.batches import Request, Stream
from python_backend.scheduler.streams.turns import STEP, TurnTaking

IDLE_US: Final = 5_000_000
"""So long after its last frame a stream is forgotten."""
LOOKED_AT: Final = 3
"""Streams, when another one comes."""
BURST_US: Final = 250_000
"""A stream may be so much ahead of its most_rps: frames bunch up on their way."""


class Streams:
    """See the module."""

    __slots__ = ("burst_us", "by_name", "gap_us", "heaviest", "known", "newest", "policy", "turns")

    def __init__(self, policy: StreamPolicy) -> None:
        self.policy: StreamPolicy = policy
        self.newest: bool = policy.keep == "newest"
        shares = policy.share == "weighted"
        self.turns: TurnTaking | None = TurnTaking(shares) if shares or self.newest else None
        """Whose frame is sent next; None: the most urgent one."""
        self.by_name: dict[str, Stream] = {}
        self.known: deque[Stream] = deque()
        """The same, in the order in which it is looked who may be forgotten."""
        self.gap_us: int = 0 if policy.most_rps is None else max(1, round(1e6 / policy.most_rps))
        """Between two frames of a stream at its most_rps; 0: no limit."""
        self.burst_us: int = max(BURST_US, self.gap_us)
        self.heaviest: float = max([PLAIN_WEIGHT, *[each.weight for each in policy.weights]])

    def arrived(self, request: Request, name: str, place: int, again: bool, now_us: int) -> DropReason | None:
        """Give a frame its seat, or say why its stream may not send it.

        place: below 0: the next one. again: it was offered before; its place and its rate counted then.
        """
        stream = self._stream(name, request.priority, now_us)
        if name and not again:
            place = place if place >= 0 else stream.last_place + 1
            if place <= stream.last_place:
                return DropReason.PLACE
            if self.gap_us > 0 and not self._in_rate(stream, now_us):
                return DropReason.RATE
            stream.last_place = place
            stream.newest_id = request.request_id
        elif name:
            # Of a core that has just begun, which takes over what another one had.
            stream.last_place = max(stream.last_place, place)
            stream.newest_id = max(stream.newest_id, request.request_id)
        stream.seen_us = now_us
        stream.open += 1
        request.stream = stream
        return None

    def waits(self, request: Request) -> Request | None:
        """The frame waits from now on: which one need not any more because of it, or the frame itself where a
        newer one of its stream has come."""
        stream = request.stream
        if stream is None:
            return None
        older: Request | None = None
        if self.newest and stream.name:
            if stream.newest_id != request.request_id:
                return request
            older = stream.waiting
            stream.waiting = request
        if self.turns is not None:
            if older is None:
                self.turns.enter(request, stream)
            else:
                self.turns.replace(older, request, stream)
        return older

    def sent(self, request: Request) -> None:
        """The frame waits no longer."""
        stream = request.stream
        if stream is None:
            return
        if stream.waiting is request:
            stream.waiting = None
        if self.turns is not None:
            self.turns.left(request, stream)

    def ended(self, request: Request) -> None:
        """The frame is answered or dropped."""
        stream = request.stream
        if stream is None:
            return
        self.sent(request)
        stream.open -= 1
        request.stream = None

    def _stream(self, name: str, priority: int, now_us: int) -> Stream:
        stream = self.by_name.get(name)
        if stream is None:
            self._forget_idle(now_us)
            weight = self.policy.weight_of(name) if name else PLAIN_WEIGHT
            stream = Stream(name, max(1, round(STEP * self.heaviest / weight)), priority)
            self.by_name[name] = stream
            self.known.append(stream)
        return stream

    def _forget_idle(self, now_us: int) -> None:
        """LOOKED_AT of all for each that is new, in turns: no work for frames of streams that are known, and
        those that send no more are few beside those that do.
        """
        for _ in range(min(LOOKED_AT, len(self.known))):
            stream = self.known.popleft()
            if stream.open == 0 and stream.seen_us + IDLE_US <= now_us:
                del self.by_name[stream.name]
            else:
                self.known.append(stream)

    def _in_rate(self, stream: Stream, now_us: int) -> bool:
        """Whether its next frame may come already (the generic cell rate algorithm)."""
        due_us = max(stream.due_us, now_us)
        if due_us - now_us > self.burst_us:
            return False
        stream.due_us = due_us + self.gap_us
        return True
