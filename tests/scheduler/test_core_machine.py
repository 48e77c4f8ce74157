"""Any order of events, any policy: the invariants hold after each, and every request ends exactly once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from planner.frames import FrameCost
from planner.serving import (
    ServedEnds,
    ServedEntry,
    ServedHost,
    ServedLink,
    ServedModel,
    ServedPipeline,
    ServedStage,
    ServedWorker,
)
from planner.streams import StreamPolicy, StreamWeight
from python_backend.scheduler.actions import Dispatch, Drop, Ticket, WakeAt
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import (
    BatchFailed,
    Event,
    Inherited,
    LinkBehind,
    LinkTaken,
    RequestArrived,
    RequestCancelled,
    StageCompleted,
    TimerFired,
    WorkerBack,
    WorkerLost,
    WorkerTaken,
)


def policies() -> st.SearchStrategy[StreamPolicy]:
    """Few names and high weights beside low ones, so that streams meet."""
    weights = (StreamWeight("a", 4.0), StreamWeight("[bc]", 0.5))
    return st.builds(
        StreamPolicy,
        keep=st.sampled_from(["all", "newest"]),
        share=st.sampled_from(["none", "weighted"]),
        most_rps=st.none() | st.sampled_from([20.0, 5_000.0]),
        weights=st.sampled_from([(), weights]),
    )


@st.composite
def models(draw: st.DrawFn) -> ServedModel:
    """One to three pipelines of one to three stages, links shared at random, even between pipelines."""
    pipelines = []
    counted = draw(st.booleans())
    for p in range(draw(st.integers(1, 3))):
        stages = []
        for s in range(draw(st.integers(1, 3))):
            first = draw(st.integers(1, 400))
            latency_us = tuple(first + extra * draw(st.integers(0, 200)) for extra in range(3))
            workers = tuple(
                ServedWorker(
                    name=f"m.p{p}.s{s}.w{w}",
                    server=f"h{draw(st.integers(0, 2))}",
                    uplink=f"up{draw(st.integers(0, 3))}",
                    downlink=f"down{draw(st.integers(0, 3))}",
                )
                for w in range(draw(st.integers(1, 4)))
            )
            stages.append(
                ServedStage(gpu="G", slices_per_gpu=1, latency_us=tuple(sorted(latency_us)), workers=workers)
            )
        hops = tuple(tuple(h * b for b in (1, 2, 3)) for h in draw_hops(draw, len(stages) - 1))
        pipelines.append(
            ServedPipeline(
                batch_size=draw(st.integers(1, 3)),
                stages=tuple(stages),
                transfer_us=hops,
                ends=draw(ends()) if counted else None,
            )
        )
    return ServedModel(
        model="m",
        slo_us=1_500,
        planned_rps=1_000.0,
        pipelines=tuple(pipelines),
        entry=draw(entries()) if counted else None,
        streams=draw(st.none() | policies()),
        links=tuple(
            ServedLink(name, draw(st.sampled_from([0.3, 0.5, 1.0]))) for name in ("up0", "down1", "in")
        ),
    )


@st.composite
def ends(draw: st.DrawFn) -> ServedEnds:
    """Of frames of about 100 bytes."""
    tables = [
        tuple(t * b for b in (1, 2, 3)) for t in draw(st.lists(st.integers(0, 40), min_size=4, max_size=4))
    ]
    return ServedEnds(
        entry_us_per_byte=draw(st.sampled_from([0.0, 0.3, 1.0])),
        server_us_per_byte=draw(st.sampled_from([0.0, 0.5, 1.0])),
        ingress_us=float(draw(st.integers(0, 30))),
        ingress_us_per_byte=draw(st.sampled_from([1.0, 1.1])),
        finish_us=tables[0],
        answer_server_us=tables[1],
        answer_entry_us=tables[2],
        answer_us=tuple(max(t) + 5 for t in zip(tables[1], tables[2], strict=True)),
    )


@st.composite
def entries(draw: st.DrawFn) -> ServedEntry:
    """The entry's links may be a worker's too: then one server is both."""
    return ServedEntry(
        uplink=draw(st.sampled_from(["in", "up1"])),
        downlink=draw(st.sampled_from(["in", "down0"])),
        frame_bytes=100,
        frame_pixels=50,
        prepare=FrameCost(float(draw(st.integers(0, 50))), draw(st.sampled_from([0.0, 0.5])), 0.1),
        hosts=tuple(ServedHost(name, draw(st.integers(1, 3))) for name in ("h0", "h1")),
    )


def draw_hops(draw: st.DrawFn, count: int) -> list[int]:
    return [draw(st.integers(0, 100)) for _ in range(count)]


class CoreMachine(RuleBasedStateMachine):
    policy = "adaptive"

    @initialize(model=models())
    def start(self, model: ServedModel) -> None:
        self.model = model
        self.core = SchedulerCore(model, self.policy, told=True)
        self.now_us = 0
        self.next_id = 0
        self.open: set[int] = set()
        self.deadlines_us: dict[int, int] = {}
        self.ended: set[int] = set()
        self.tickets: dict[int, Dispatch] = {}
        self.done: dict[int, int] = {}
        self.wake_us: int | None = None

    def send(self, event: Event) -> None:
        for action in self.core.handle(event, self.now_us):
            if isinstance(action, Dispatch):
                assert action.ticket.batch_id not in self.tickets
                self.tickets[action.ticket.batch_id] = action
                self.done[action.ticket.batch_id] = 0
                assert set(action.request_ids) <= self.open
                self.check_ticket(action.ticket)
            elif isinstance(action, Drop):
                self.end(action.request_id)
            elif isinstance(action, WakeAt):
                assert action.time_us > self.now_us
                self.wake_us = action.time_us

    def check_ticket(self, ticket: Ticket) -> None:
        times = [self.now_us]
        for hop in ticket.hops:
            times += [hop.transfer_start_us, hop.transfer_end_us, hop.ready_us, hop.start_us, hop.end_us]
        assert [*times, ticket.answer_us] == sorted([*times, ticket.answer_us])

    def end(self, request_id: int) -> None:
        assert request_id in self.open, f"request {request_id} ended twice"
        self.open.remove(request_id)
        self.ended.add(request_id)

    @rule(
        rooms_us=st.lists(st.integers(-100, 3_000), min_size=1, max_size=6),
        priority=st.sampled_from([0, 0, 0, 1]),
        gap_us=st.integers(0, 300),
        frame_bytes=st.sampled_from([0, 0, 20, 100, 900]),
        stream=st.sampled_from(["", "a", "a", "b", "c"]),
        place=st.sampled_from([-1, -1, -1, 1, 9]),
        again=st.sampled_from([False, False, True]),
    )
    def arrive(
        self,
        rooms_us: list[int],
        priority: int,
        gap_us: int,
        frame_bytes: int,
        stream: str,
        place: int,
        again: bool,
    ) -> None:
        self.now_us += gap_us
        for room_us in rooms_us:
            self.open.add(self.next_id)
            deadline_us = self.deadlines_us[self.next_id] = self.now_us + room_us
            self.next_id += 1
            arrived = RequestArrived(
                request_id=self.next_id - 1,
                deadline_us=deadline_us,
                priority=priority,
                frame_bytes=frame_bytes,
                pixels=frame_bytes // 2,
                stream=stream,
                place=place,
                again=again,
            )
            self.send(arrived)

    @precondition(lambda self: self.wake_us is not None)
    @rule(late_us=st.integers(0, 200))
    def wake(self, late_us: int) -> None:
        assert self.wake_us is not None
        self.now_us = max(self.now_us, self.wake_us + late_us)
        self.wake_us = None
        self.send(TimerFired())

    @rule()
    def spurious_timer(self) -> None:
        self.send(TimerFired())

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), error_us=st.integers(-300, 300), skip=st.booleans())
    def complete(self, data: Any, error_us: int, skip: bool) -> None:
        """The next stage of a batch, or its last with the notices before it lost."""
        batch_id = data.draw(st.sampled_from(sorted(self.tickets)))
        ticket = self.tickets[batch_id].ticket
        index = len(ticket.hops) - 1 if skip else self.done[batch_id]
        ended_us = max(0, ticket.hops[index].end_us + error_us)
        self.now_us = max(self.now_us, ended_us)
        self.done[batch_id] = index + 1
        if index == len(ticket.hops) - 1:
            dispatch = self.tickets.pop(batch_id)
            stages = len(self.model.pipelines[ticket.pipeline].stages)
            if ticket.first_stage + index == stages - 1:
                for request_id in set(dispatch.request_ids) & self.open:
                    self.end(request_id)
        self.send(StageCompleted(batch_id, ticket.attempt, ticket.first_stage + index, ended_us))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def fail(self, data: Any) -> None:
        batch_id = data.draw(st.sampled_from(sorted(self.tickets)))
        ticket = self.tickets.pop(batch_id).ticket
        self.send(BatchFailed(batch_id, ticket.attempt, ticket.first_stage))

    @rule(data=st.data(), back=st.booleans())
    def worker(self, data: Any, back: bool) -> None:
        stage = data.draw(st.sampled_from([s for p in self.model.pipelines for s in p.stages]))
        name = data.draw(st.sampled_from(stage.workers)).name
        self.send(WorkerBack(name) if back else WorkerLost(name))

    @rule(link=st.sampled_from(["in", "up0", "up1", "elsewhere"]), in_us=st.integers(-50, 300))
    def other_models_send(self, link: str, in_us: int) -> None:
        self.send(LinkTaken(link, self.now_us + in_us, self.now_us + in_us + 40))

    @rule(
        link=st.sampled_from(["in", "up0", "down0", "down1", "elsewhere"]),
        is_down=st.booleans(),
        behind_us=st.integers(0, 300),
        pace=st.integers(1_000, 4_000),
    )
    def a_link_falls_behind(self, link: str, is_down: bool, behind_us: int, pace: int) -> None:
        self.send(LinkBehind(link, is_down, behind_us, pace))

    @rule(data=st.data(), in_us=st.integers(-50, 600))
    def other_tables_hold(self, data: Any, in_us: int) -> None:
        stage = data.draw(st.sampled_from([s for p in self.model.pipelines for s in p.stages]))
        name = data.draw(st.sampled_from(stage.workers)).name
        self.send(WorkerTaken(name, self.now_us + in_us))
        assert self.core.worker_busy_until_us()[name] >= self.now_us + in_us

    @precondition(lambda self: self.policy != "reactive")
    @rule(model=models())
    def another_table(self, model: ServedModel) -> None:
        """Its core has the frames that wait; the one before ends its batches, and has nothing else to do."""
        old, travelling = self.core, {id for each in self.tickets.values() for id in each.request_ids}
        legacy = old.legacy()
        busy_us = old.worker_busy_until_us()
        old.forget_frames()
        old.check_invariants()
        assert (old.queue_length, old.unfinished, old.in_flight) == (0, 0, len(self.tickets))
        self.model, self.wake_us = model, None
        self.core = SchedulerCore(model, self.policy, told=True)
        self.core.number_from(old.next_batch_id)
        for event in legacy:
            if not isinstance(event, WorkerTaken | WorkerLost) or self.core.knows(event.worker):
                self.send(event)
        for name, until_us in self.core.worker_busy_until_us().items():
            assert until_us >= busy_us.get(name, 0) or busy_us[name] <= self.now_us
        for request_id in sorted(self.open - travelling):
            self.send(RequestArrived(request_id, self.deadlines_us[request_id]))
        for batch_id, dispatch in list(self.tickets.items()):
            if batch_id < old.next_batch_id:
                self.end_by(old, dispatch)
        assert (old.in_flight, old.unfinished) == (0, 0)

    def end_by(self, old: SchedulerCore, dispatch: Dispatch) -> None:
        ticket = dispatch.ticket
        del self.tickets[ticket.batch_id]
        for stage in range(self.done[ticket.batch_id], len(ticket.hops)):
            ended = StageCompleted(ticket.batch_id, ticket.attempt, stage, ticket.hops[stage].end_us)
            assert old.handle(ended, self.now_us) == []
            old.check_invariants()
        for request_id in set(dispatch.request_ids) & self.open:
            self.end(request_id)

    @rule(guard_us=st.integers(0, 2_000), frame_bytes=st.integers(0, 500))
    def learned_before(self, guard_us: int, frame_bytes: int) -> None:
        self.send(Inherited(guard_us, frame_bytes, frame_bytes // 3))

    @precondition(lambda self: self.next_id > 0)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        request_id = data.draw(st.integers(0, self.next_id - 1))
        self.send(RequestCancelled(request_id))
        assert request_id not in self.open

    @rule(batch_id=st.integers(0, 500), stage=st.integers(0, 3))
    def old_news(self, batch_id: int, stage: int) -> None:
        """Attempts that nobody knows are ignored."""
        self.send(StageCompleted(batch_id, 99, stage, self.now_us))
        self.send(BatchFailed(batch_id, 99, stage))

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "core"):
            self.core.check_invariants()
            assert self.core.unfinished == len(self.open)
            assert not self.open & self.ended
            if self.core.queue_length and self.policy == "adaptive":
                assert self.wake_us is not None, "frames wait and nothing will wake the core"

    def teardown(self) -> None:
        """With the world running on, every request ends."""
        if not hasattr(self, "core"):
            return
        for _ in range(2_000):
            if not self.open:
                return
            self.step()
            self.holds()
        raise AssertionError(f"requests {self.open} never end")

    def step(self) -> None:
        if self.tickets:
            batch_id = min(self.tickets, key=lambda b: (self.tickets[b].ticket.hops[self.done[b]].end_us, b))
            end_us = self.tickets[batch_id].ticket.hops[self.done[batch_id]].end_us
            if self.wake_us is None or end_us <= self.wake_us:
                self.finish_stage(batch_id, end_us)
                return
        assert self.wake_us is not None, "frames are open, nothing travels and nothing will wake the core"
        self.wake(0)

    def finish_stage(self, batch_id: int, end_us: int) -> None:
        ticket = self.tickets[batch_id].ticket
        index = self.done[batch_id]
        self.now_us = max(self.now_us, end_us)
        self.done[batch_id] += 1
        if index == len(ticket.hops) - 1:
            dispatch = self.tickets.pop(batch_id)
            if ticket.first_stage + index == len(self.model.pipelines[ticket.pipeline].stages) - 1:
                for request_id in set(dispatch.request_ids) & self.open:
                    self.end(request_id)
        self.send(StageCompleted(batch_id, ticket.attempt, ticket.first_stage + index, self.now_us))


class ReferenceMachine(CoreMachine):
    policy = "reference"


class ReactiveMachine(CoreMachine):
    policy = "reactive"


@pytest.mark.parametrize("machine", [CoreMachine, ReferenceMachine, ReactiveMachine])
def test_invariants_hold_whatever_happens(machine: type[CoreMachine]) -> None:
    case = machine.TestCase
    case.settings = settings(max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck))
    case().runTest()
