"""Batches on their way from the entry to other hosts, beside what was reserved for them: tells the core where
links are behind, and how slow they are.

A link that carries less than planned, or that this host's processor could not fill for a moment, has work
left when by its reservations it has none. Without this nobody would know: each later batch would come as late
as the one before it, and under full load for ever.

Rules
- The kernel is asked (http.sendings) when a batch should have come and its call goes on, and then every few
  milliseconds until it has. While all come in time nothing is asked twice.
- What does not move is no work of a link: its receiver is stuck or gone.
- A link's pace is what was seen to cross it while something was late, against its time by plan. It falls back
  with each batch that comes in time: what keeps to a slow pace could never show that the link is faster.
- The entry's uplink is as slow as the way to the quickest server.
- Batches that overlap by a little carry more over a link that loses packets: so much behind is left untold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from planner.serving import ServedModel
from python_backend.scheduler.actions import Ticket
from python_backend.scheduler.events import LinkBehind
from python_backend.wire.clock import NEVER
from python_backend.wire.http.sendings import Sendings

AS_PLANNED: Final = 1000
SLACK_SHARE: Final = 32
"""Of the SLO: so much behind is left untold."""
_LOOK_US: Final = 4_000
_STUCK_SHARE: Final = 8
"""Of the SLO: what has not moved for so long does not move."""
_SAMPLE_US: Final = 8_000
"""By plan, of what is carried for one look at the pace."""
_MEMORY: Final = 2
"""A look moves the pace by one in so many parts of its difference."""
_RECOVERY: Final = 16
"""A batch in time takes one in so many parts off what is slower than planned."""
_SLOWEST: Final = 16.0
_STEPS: Final = 40
"""In so many parts of its time by plan a pace is told."""


class _Transfer:
    """A batch that has not been seen to come. left: bytes, when last asked."""

    __slots__ = ("downlink", "due_us", "entry_us", "is_late", "left", "server_us", "start_us")

    def __init__(
        self, start_us: int, due_us: int, downlink: str, size: int, entry_us: float, server_us: float
    ) -> None:
        self.start_us = start_us
        self.due_us = due_us
        self.downlink = downlink
        self.left = size
        self.entry_us = entry_us
        self.server_us = server_us
        """Per byte, of the two links."""
        self.is_late = False


class _Way:
    """To one server. carried_us, time_us: what crossed the uplink by plan, and how long that took, since the
    last look at the pace.
    """

    __slots__ = ("carried_us", "pace", "time_us", "was_late")

    def __init__(self) -> None:
        self.pace = 1.0
        self.carried_us = 0.0
        self.time_us = 0
        self.was_late = False


class Transfers:
    """See the module. Of one dispatcher, whatever its tables. Used by one thread at a time."""

    def __init__(self, sendings: Sendings) -> None:
        self._sendings = sendings
        self._open: dict[int, _Transfer] = {}
        self._ways: dict[str, _Way] = {}
        self._told: dict[tuple[str, bool], tuple[int, int]] = {}
        self._looked_us = 0
        self._carried_us = 0.0
        """By plan, what was seen to cross the uplink since the last look."""
        self.look_us = NEVER
        """When to look next."""

    def sent(self, served: ServedModel, ticket: Ticket, size: int) -> None:
        """A batch of so many bytes goes out, or will at its reserved time."""
        hop = ticket.hops[0]
        ends = served.pipelines[ticket.pipeline].ends
        if ends is None or served.entry is None or hop.transfer_end_us <= hop.transfer_start_us:
            return
        (downlink,) = [
            worker.downlink
            for worker in served.pipelines[ticket.pipeline].stages[0].workers
            if worker.name == hop.worker
        ]
        self._ways.setdefault(downlink, _Way())
        self._open[ticket.batch_id] = _Transfer(
            hop.transfer_start_us,
            hop.transfer_end_us,
            downlink,
            size,
            ends.entry_us_per_byte,
            ends.server_us_per_byte,
        )
        self.look_us = min(self.look_us, hop.transfer_end_us)

    def over(self, batch: int) -> None:
        """Its call has ended."""
        transfer = self._open.pop(batch, None)
        if transfer is None:
            return
        self._carried_us += transfer.left * transfer.entry_us
        if not transfer.is_late:
            way = self._ways[transfer.downlink]
            way.pace -= (way.pace - 1.0) / _RECOVERY

    def look(self, served: ServedModel, now_us: int) -> Sequence[LinkBehind]:
        """What the core is to be told of links, where that has changed."""
        if now_us < self.look_us:
            return ()
        took_us, self._looked_us = now_us - self._looked_us, now_us
        up_us, down_us = 0.0, dict.fromkeys(self._ways, 0.0)
        up_pace = self._up_pace()
        late = set()
        for batch, transfer in list(self._open.items()):
            if transfer.start_us > now_us:
                continue
            left = self._sendings.left(batch)
            now_left = 0 if left is None else left.bytes
            self._carried_us += max(0, transfer.left - now_left) * transfer.entry_us
            transfer.left = now_left
            rtt_us = 0 if left is None else left.rtt_us
            is_due = transfer.due_us <= now_us
            if left is None or now_left * transfer.entry_us <= rtt_us:
                if is_due:
                    self.over(batch)
                continue
            if is_due and now_us - left.moved_us >= served.slo_us // _STUCK_SHARE:
                continue
            ahead_us = max(0, transfer.due_us - now_us) + rtt_us
            way = self._ways[transfer.downlink]
            up_us += max(0.0, now_left * transfer.entry_us * up_pace - ahead_us)
            down_us[transfer.downlink] += max(0.0, now_left * transfer.server_us * way.pace - ahead_us)
            if is_due:
                transfer.is_late = True
                late.add(transfer.downlink)
        self._learn(late, self._carried_us, took_us)
        self._carried_us = 0.0
        due_us = [each.due_us for each in self._open.values()]
        self.look_us = max(now_us + _LOOK_US, min(due_us)) if due_us else NEVER
        if not late:
            up_us, down_us = 0.0, dict.fromkeys(self._ways, 0.0)
        return self._news(served, up_us, down_us)

    def _up_pace(self) -> float:
        return min([way.pace for way in self._ways.values()], default=1.0)

    def _learn(self, late: set[str], carried_us: float, took_us: int) -> None:
        for downlink, way in self._ways.items():
            if way.was_late:
                way.carried_us += carried_us
                way.time_us += took_us
                if way.carried_us >= _SAMPLE_US:
                    seen = min(_SLOWEST, way.time_us / way.carried_us)
                    way.pace += (max(seen, 1.0) - way.pace) / _MEMORY
                    way.carried_us, way.time_us = 0.0, 0
            if downlink not in late:
                way.carried_us, way.time_us = 0.0, 0
            way.was_late = downlink in late

    def _news(self, served: ServedModel, up_us: float, down_us: dict[str, float]) -> list[LinkBehind]:
        if served.entry is None:
            return []
        slack_us = served.slo_us // SLACK_SHARE
        seen = {(served.entry.uplink, False): (up_us, self._up_pace())}
        for downlink, way in self._ways.items():
            seen[downlink, True] = (down_us[downlink], way.pace)
        news = []
        for (link, is_down), (behind_us, exact) in seen.items():
            told = int(behind_us) if behind_us > slack_us else 0, round(exact * _STEPS) * AS_PLANNED // _STEPS
            if self._told.get((link, is_down), (0, AS_PLANNED)) != told:
                self._told[link, is_down] = told
                news.append(LinkBehind(link, is_down, *told))
        return news
