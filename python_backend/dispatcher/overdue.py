"""Finds workers that have fallen silent while they owe something, long before their hops time out.

A stopped server or a killed stub says nothing at all. Its batches could wait until their deadlines are over,
or be tried again while there is still time.

Rules
- A worker is overdue when a batch of its should have ended one more batch time and some grace ago, and
  nothing has been heard of the worker since then either. A slow worker that goes on ending batches never is.
- A worker on another host is not overdue while its batch still arrives there: by as much as the last of it
  came later than reserved, all after it is later. Where stages send, their ends tell by how much lately.
- Who looks late does not judge: if the looking thread itself was held up, then so was the host.
- At most half of a pool is out at once by this rule. More are silent only when the fault is on our side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Final

from planner.serving import ServedModel
from python_backend.scheduler.actions import Ticket
from python_backend.wire.clock import NEVER

_SLO_SHARE: Final = 8
_PREPARING_SHARE: Final = 4
_LEAST_US, _MOST_US = 10_000, 100_000
_LOOKS_PER_GRACE: Final = 3
_FORGOTTEN: Final = 16
"""With each end of a stage the longest lateness before it counts by one in so many parts less."""


class _Owing:
    """`stage`: the first that has not told its end; `shift_us`: how late the one before it was."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.stage = 0
        self.shift_us = 0


@dataclass(frozen=True, slots=True)
class Silent:
    """A worker that owes stage `stage` of a batch since `since_us`."""

    worker: str
    stage: int
    since_us: int


class Overdue:
    """Times are microseconds of the host. Used by one thread at a time."""

    def __init__(
        self,
        served: ServedModel,
        prepares: bool = False,
        moved_us: Callable[[int], int] = lambda batch: 0,
    ) -> None:
        """prepares: first stages make tensors of clients' frames. moved_us: when a batch last moved on its
        way to its first worker; 0 where nobody knows. Asked of what is late alone.
        """
        self._moved_us = moved_us
        self._most_late_us = served.slo_us
        self._late_us: dict[tuple[int, int], int] = {}
        """Of stages that others send to, by pipeline and position: how late they lately ended, less how late
        the stage before them did.
        """
        self.grace_us = min(_MOST_US, max(_LEAST_US, served.slo_us // _SLO_SHARE))
        self._unplanned_us = served.slo_us // _PREPARING_SHARE if prepares and served.entry is None else 0
        """More for a first stage whose tickets say nothing of the time to prepare its frames."""
        self._batch_us = {
            (index, position): stage.latency_us[pipeline.batch_size - 1]
            for index, pipeline in enumerate(served.pipelines)
            for position, stage in enumerate(pipeline.stages)
        }
        self._pools = [
            frozenset(worker.name for worker in stage.workers)
            for pipeline in served.pipelines
            for stage in pipeline.stages
        ]
        self._under_way: dict[int, _Owing] = {}
        self._heard_us: dict[str, int] = {}
        self._out: set[str] = set()
        self._not_before_us = 0
        self._look_us = NEVER

    @property
    def look_us(self) -> int:
        """When to look next."""
        return self._look_us if self._under_way else NEVER

    def sent(self, ticket: Ticket, now_us: int) -> None:
        """A batch goes out."""
        if not self._under_way:
            self._look_us = now_us + self.grace_us // _LOOKS_PER_GRACE
        self._under_way[ticket.batch_id] = _Owing(ticket)

    def heard(self, worker: str, batch: int, stage: int, ended_us: int, now_us: int) -> None:
        """`worker` has told that `stage` of `batch` ended."""
        self._heard_us[worker] = now_us
        way = self._under_way.get(batch)
        if way is None or stage < way.stage:
            return
        late_us = max(0, ended_us - way.ticket.hops[stage].end_us)
        if stage > 0 and way.stage == stage:
            self._learn((way.ticket.pipeline, stage), late_us - way.shift_us)
        way.shift_us = late_us
        way.stage = stage + 1

    def _learn(self, place: tuple[int, int], late_us: int) -> None:
        before_us = self._late_us.get(place, 0)
        self._late_us[place] = max(min(late_us, self._most_late_us), before_us - before_us // _FORGOTTEN, 0)

    def over(self, batch: int) -> None:
        """The batch is answered, has failed, or was given up."""
        self._under_way.pop(batch, None)

    def lost(self, worker: str) -> list[Ticket]:
        """`worker` is out: the batches that it still owes something."""
        self._out.add(worker)
        return [way.ticket for way in self._under_way.values() if worker in _owed(way)]

    def owing(self) -> set[str]:
        """Workers that batches under way have yet to reach, or are at."""
        return {worker for way in list(self._under_way.values()) for worker in _owed(way)}

    def back(self, worker: str, now_us: int) -> None:
        """`worker` is in use again."""
        self._out.discard(worker)
        self._heard_us[worker] = now_us

    def silent(self, now_us: int, allowance_us: int) -> list[Silent]:
        """Workers to be taken for dead. `allowance_us`: by which answers are late anyway."""
        held_up_us = now_us - self._look_us
        self._look_us = now_us + self.grace_us // _LOOKS_PER_GRACE
        if held_up_us > self.grace_us // 2:
            self._not_before_us = now_us
            return []
        found: dict[str, Silent] = {}
        for silent in self._candidates(now_us - self.grace_us - allowance_us):
            found.setdefault(silent.worker, silent)
        return [silent for silent in found.values() if self._may_be_out(silent.worker, found.keys())]

    def _candidates(self, before_us: int) -> Iterator[Silent]:
        for way in self._under_way.values():
            if way.stage >= len(way.ticket.hops):
                continue
            hop = way.ticket.hops[way.stage]
            heard_us = max(self._heard_us.get(hop.worker, 0), self._not_before_us)
            since_us = max(hop.end_us + way.shift_us, heard_us)
            place = way.ticket.pipeline, way.stage
            allowed_us = self._batch_us[place] + self._late_us.get(place, 0)
            allowed_us += self._unplanned_us if way.stage == 0 else 0
            if since_us + allowed_us >= before_us:
                continue
            if way.stage == 0:
                late_us = self._moved_us(way.ticket.batch_id) - hop.transfer_end_us
                since_us = max(since_us, hop.end_us + late_us)
            if since_us + allowed_us < before_us:
                yield Silent(hop.worker, way.stage, since_us)

    def _may_be_out(self, worker: str, silent: Set[str]) -> bool:
        (pool,) = [pool for pool in self._pools if worker in pool]
        return 2 * len(pool & (self._out | silent)) <= len(pool)


def _owed(way: _Owing) -> set[str]:
    return {hop.worker for hop in way.ticket.hops[way.stage :]}
