"""Links that carry less than planned, in virtual time: the core with what is seen of its transfers, and a
link that these share.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from planner.frames import FrameCost
from planner.serving import (
    ServedEnds,
    ServedEntry,
    ServedHost,
    ServedModel,
    ServedPipeline,
    ServedStage,
    ServedWorker,
)
from python_backend.dispatcher.links.transfers import SLACK_SHARE, Transfers
from python_backend.scheduler.actions import Dispatch, Drop, DropReason, Ticket, WakeAt
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import LinkBehind, RequestArrived, StageCompleted, TimerFired
from python_backend.wire.clock import NEVER
from python_backend.wire.http.sendings import Left, Sendings

MS = 1_000
SLO_US = 400 * MS
FRAME_BYTES = 50_000
US_PER_BYTE = 0.084
"""95 of 100 Mbit/s: 238 frames/s."""
FRAME_US = FRAME_BYTES * US_PER_BYTE
STEP_US = 500


def served(servers: int = 1) -> ServedModel:
    """Two workers on each of so many servers, which carry twice what the entry's link does."""
    workers = tuple(
        ServedWorker(f"m.p0.s0.w{number}", f"h{number // 2}", f"h{number // 2}.up", f"h{number // 2}.down")
        for number in range(2 * servers)
    )
    latency_us = tuple(10 * MS + 3 * MS * batch for batch in range(1, 9))
    nothing = (0,) * 8
    ends = ServedEnds(US_PER_BYTE, US_PER_BYTE / 2, 0.0, US_PER_BYTE, nothing, nothing, nothing, nothing)
    return ServedModel(
        model="m",
        slo_us=SLO_US,
        planned_rps=1e6 / FRAME_US,
        pipelines=(ServedPipeline(8, (ServedStage("G", 1, latency_us, workers),), (), ends),),
        entry=ServedEntry(
            "entry.up",
            "entry.down",
            FRAME_BYTES,
            0,
            FrameCost(0, 0, 0),
            tuple(ServedHost(f"h{number}", 8) for number in range(servers)),
        ),
    )


class Network(Sendings):
    """What is under way shares the link; `pace` may be by batch and time, 0: nothing moves."""

    def __init__(self, pace: Callable[[Ticket, int], float]) -> None:
        super().__init__()
        self.pace = pace
        self.now_us = 0
        self.left_bytes: dict[int, float] = {}
        self.tickets: dict[int, Ticket] = {}
        self.moved: dict[int, int] = {}

    def send(self, ticket: Ticket, size: int) -> None:
        self.tickets[ticket.batch_id] = ticket
        self.left_bytes[ticket.batch_id] = size
        self.moved[ticket.batch_id] = 0

    def step(self) -> list[Ticket]:
        """To the next moment; what has come by then."""
        self.now_us += STEP_US
        under_way = [
            batch
            for batch, ticket in self.tickets.items()
            if ticket.hops[0].transfer_start_us <= self.now_us and self.left_bytes[batch] > 0
        ]
        came = []
        for batch in under_way:
            pace = self.pace(self.tickets[batch], self.now_us)
            if pace > 0:
                self.left_bytes[batch] -= STEP_US / US_PER_BYTE / pace / len(under_way)
                self.moved[batch] = self.now_us
            if self.left_bytes[batch] <= 0:
                came.append(self.tickets[batch])
        return came

    def left(self, batch: int) -> Left | None:
        if batch not in self.left_bytes:
            return None
        return Left(max(0, int(self.left_bytes[batch])), self.moved[batch], 0)


class Fleet:
    """Runs the core for some seconds at a rate; `transfers`: whether it hears of its links."""

    def __init__(self, pace: Callable[[Ticket, int], float], hears: bool = True, servers: int = 1) -> None:
        self.core = SchedulerCore(served(servers))
        self.network = Network(pace)
        self.transfers = Transfers(self.network)
        self.hears = hears
        self.told: list[LinkBehind] = []
        self.in_time: dict[str, int] = {}
        self.late = 0
        self.drops: list[DropReason] = []
        self._frames: dict[int, int] = {}
        self._batches: dict[int, Dispatch] = {}
        self._free_us: dict[str, int] = {}
        self._ends: list[tuple[int, int]] = []
        self._wake_us = NEVER

    def run(self, rate_rps: float, seconds: float, seed: int = 1) -> float:
        """Frames answered in time per second, of the last three quarters."""
        chance = random.Random(seed)
        next_us, number, warm_us = 0.0, 0, seconds * 0.25e6
        while self.network.now_us < seconds * 1e6:
            for ticket in self.network.step():
                self._arrive(ticket)
            now_us = self.network.now_us
            if now_us < warm_us:
                self.in_time, self.late = {}, 0
            for end_us, batch in sorted(self._ends):
                if end_us <= now_us:
                    self._ends.remove((end_us, batch))
                    self._end(batch)
            while next_us <= now_us:
                number += 1
                self._frames[number] = now_us + SLO_US
                self._tell(RequestArrived(number, now_us + SLO_US, 0, FRAME_BYTES))
                next_us += chance.expovariate(rate_rps / 1e6)
            if self._wake_us <= now_us:
                self._wake_us = NEVER
                self._tell(TimerFired())
        return sum(self.in_time.values()) / (seconds * 0.75)

    def _arrive(self, ticket: Ticket) -> None:
        worker, frames = ticket.hops[0].worker, len(self._batches[ticket.batch_id].request_ids)
        took_us = (10 + 3 * frames) * MS
        self._free_us[worker] = max(self._free_us.get(worker, 0), self.network.now_us) + took_us
        self._ends.append((self._free_us[worker], ticket.batch_id))

    def _end(self, batch: int) -> None:
        now_us, done = self.network.now_us, self._batches.pop(batch)
        self.transfers.over(batch)
        for frame in done.request_ids:
            worker = done.ticket.hops[0].worker
            if now_us <= self._frames[frame]:
                self.in_time[worker] = self.in_time.get(worker, 0) + 1
            else:
                self.late += 1
        self._tell(StageCompleted(batch, 0, 0, now_us))

    def _tell(self, event: RequestArrived | StageCompleted | TimerFired) -> None:
        now_us = self.network.now_us
        if self.hears:
            for behind in self.transfers.look(self.core.served_model, now_us):
                self.told.append(behind)
                self.core.handle(behind, now_us)
                self.core.check_invariants()
        for action in self.core.handle(event, now_us):
            if isinstance(action, Dispatch):
                size = FRAME_BYTES * len(action.request_ids)
                self._batches[action.ticket.batch_id] = action
                self.network.send(action.ticket, size)
                self.transfers.sent(self.core.served_model, action.ticket, size)
            elif isinstance(action, Drop):
                self.drops.append(action.reason)
            elif isinstance(action, WakeAt):
                self._wake_us = action.time_us


def test_on_a_link_as_planned_nothing_is_held() -> None:
    fleet = Fleet(lambda ticket, now_us: 1.0)
    assert fleet.run(200, 4) > 190
    assert all(behind.behind_us == 0 and behind.pace <= 1_050 for behind in fleet.told)
    assert fleet.drops == []


def test_a_moment_in_which_nothing_was_sent_is_made_up_for_under_full_load() -> None:
    """Nothing moves for 300 ms, at twice what the link carries. Who does not know is late from then on."""

    def paused(ticket: Ticket, now_us: int) -> float:
        return 0.0 if 500 * MS < now_us < 800 * MS else 1.0

    unaware = Fleet(paused, hears=False)
    carried_rps = 1e6 / FRAME_US
    assert unaware.run(2 * carried_rps, 6) < 0.8 * carried_rps
    fleet = Fleet(paused)
    assert fleet.run(2 * carried_rps, 6) > 0.95 * carried_rps
    assert fleet.late < unaware.late / 5


@pytest.mark.parametrize("pace", [1.05, 1.3, 2.0, 4.0])
def test_a_link_slower_than_planned_is_taken_for_one_and_frames_are_refused_at_once(pace: float) -> None:
    """A batch of four times its time takes a third of the SLO: to learn that takes some seconds."""
    fleet = Fleet(lambda ticket, now_us: pace)
    carried_rps = 1e6 / FRAME_US / pace
    assert fleet.run(2 * carried_rps, 16) > 0.94 * carried_rps
    assert set(fleet.drops) == {DropReason.OVERLOAD}
    assert fleet.late < 0.05 * 12 * carried_rps


def test_a_link_that_is_quick_again_is_found_to_be() -> None:
    fleet = Fleet(lambda ticket, now_us: 3.0 if now_us < 4_000 * MS else 1.0)
    carried_rps = 1e6 / FRAME_US
    fleet.run(2 * carried_rps, 8)
    assert max(behind.pace for behind in fleet.told) > 2_000
    last = {(behind.link, behind.is_down): behind.pace for behind in fleet.told}
    assert max(last.values()) < 1_100


def test_a_slow_server_slows_no_other() -> None:
    """Its own link carries a twelfth; the entry's is as planned."""
    fleet = Fleet(
        lambda ticket, now_us: 12.0 if ticket.hops[0].worker.endswith(("w0", "w1")) else 1.0, servers=2
    )
    assert fleet.run(200, 8) > 180
    paces = {(behind.link, behind.is_down): behind.pace for behind in fleet.told}
    assert paces["h0.down", True] > paces["h1.down", True]
    assert fleet.in_time["m.p0.s0.w0"] < 50, "it is hardly used"


def test_what_does_not_move_is_no_work_of_a_link() -> None:
    """A worker's host is gone: the links are for the others."""
    fleet = Fleet(lambda ticket, now_us: 0.0 if ticket.hops[0].worker == "m.p0.s0.w0" else 1.0)
    fleet.run(100, 3)
    assert fleet.told[-1].behind_us == 0
    assert max(behind.behind_us for behind in fleet.told) < SLO_US // 4
    assert SLO_US // SLACK_SHARE < SLO_US // 4
