"""Frames that name their stream: what the core decides in situations small enough to know the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from planner.streams import StreamPolicy, StreamWeight
from python_backend.scheduler.actions import Action, Dispatch, Drop, DropReason
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import (
    BatchFailed,
    RequestArrived,
    RequestCancelled,
    StageCompleted,
    TimerFired,
)
from python_backend.scheduler.streams.book import IDLE_US

WORKERS = tuple(ServedWorker(name=f"w{i}", server="s", uplink=f"u{i}", downlink=f"d{i}") for i in range(4))


def one_worker(streams: StreamPolicy | None, latency_us: int = 1_000, workers: int = 1) -> ServedModel:
    """A frame at a time, each for `latency_us`, within 10 ms."""
    stage = ServedStage(gpu="G", slices_per_gpu=1, latency_us=(latency_us,), workers=WORKERS[:workers])
    pipeline = ServedPipeline(batch_size=1, stages=(stage,), transfer_us=())
    return ServedModel(model="m", slo_us=10_000, planned_rps=1e3, pipelines=(pipeline,), streams=streams)


class World:
    """A core, whose invariants are looked at after every event."""

    def __init__(self, streams: StreamPolicy | None, policy: str = "adaptive", workers: int = 1) -> None:
        self.core = SchedulerCore(one_worker(streams, workers=workers), policy)
        self.sent: list[int] = []
        self.dropped: dict[int, DropReason] = {}
        self.batches: dict[int, Dispatch] = {}

    def told(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Dispatch):
                self.sent += action.request_ids
                self.batches[action.ticket.batch_id] = action
            elif isinstance(action, Drop):
                assert action.request_id not in self.dropped
                self.dropped[action.request_id] = action.reason
        self.core.check_invariants()

    def arrive(
        self, request_id: int, stream: str = "", place: int = -1, at_us: int = 0, deadline_us: int = 10_000
    ) -> None:
        arrived = RequestArrived(request_id, deadline_us, stream=stream, place=place)
        self.told(self.core.handle(arrived, at_us))

    def end(self, batch_id: int, at_us: int) -> None:
        """The batch ends, and the next one is sent."""
        self.told(self.core.handle(StageCompleted(batch_id, 0, 0, at_us), at_us))

    def end_all(self, at_us: int) -> None:
        """Every batch under way ends, one every ms, until nothing waits."""
        batch_id = min(self.batches)
        while self.core.in_flight:
            self.end(batch_id, at_us)
            batch_id += 1
            at_us += 1_000
            self.told(self.core.handle(TimerFired(), at_us))


@pytest.mark.parametrize("policy", ["adaptive", "reactive"])
def test_a_newer_frame_supersedes_the_one_that_waits_but_not_the_one_under_way(policy: str) -> None:
    world = World(StreamPolicy(keep="newest"), policy)
    for request_id in (1, 2, 3):
        world.arrive(request_id, "gate", at_us=request_id)
    assert world.sent == [1]
    assert world.dropped == {2: DropReason.SUPERSEDED}
    world.end(min(world.batches), 1_000)
    assert world.sent == [1, 3]


def test_frames_of_no_stream_and_of_other_streams_are_kept() -> None:
    world = World(StreamPolicy(keep="newest"))
    for request_id, stream in enumerate(("", "", "", "a", "b")):
        world.arrive(request_id, stream)
    assert world.dropped == {}
    world.end_all(1_000)
    assert sorted(world.sent) == [0, 1, 2, 3, 4]


def test_a_newer_frame_has_the_place_in_the_queue_of_the_one_that_it_supersedes() -> None:
    """Or a fast camera would stand at the end for ever."""
    world = World(StreamPolicy(keep="newest"))
    world.arrive(0, "under way", deadline_us=10_000)
    world.arrive(1, "fast", at_us=10, deadline_us=10_010)
    world.arrive(2, "slow", at_us=20, deadline_us=10_020)
    for request_id in (3, 4, 5):
        world.arrive(request_id, "fast", at_us=10 * request_id, deadline_us=10_000 + 10 * request_id)
    assert world.dropped == dict.fromkeys((1, 3, 4), DropReason.SUPERSEDED)
    world.end_all(1_000)
    assert world.sent == [0, 5, 2]


def test_the_newer_frames_own_deadline_says_whether_it_can_be_served() -> None:
    world = World(StreamPolicy(keep="newest"))
    world.arrive(0, "under way")
    world.arrive(1, "cam", deadline_us=2_000)
    world.arrive(2, "cam", at_us=500, deadline_us=3_500)
    world.told(world.core.handle(TimerFired(), 1_500))  # too late for 1, whose place 2 has
    assert world.dropped == {1: DropReason.SUPERSEDED}
    world.end(0, 2_000)
    assert world.sent == [0, 2]


def test_a_fast_camera_alone_is_not_held_back_for_a_fuller_batch_for_ever() -> None:
    stage = ServedStage(gpu="G", slices_per_gpu=1, latency_us=(1_000, 1_100), workers=WORKERS[:1])
    pipeline = ServedPipeline(batch_size=2, stages=(stage,), transfer_us=())
    model = replace(one_worker(StreamPolicy(keep="newest")), pipelines=(pipeline,))
    core = SchedulerCore(model)
    core.handle(RequestArrived(0, 10_000, stream="cam"), 0)
    core.handle(StageCompleted(0, 0, 0, 1_000), 1_000)
    core.handle(RequestArrived(1, 11_000, stream="other"), 1_000)  # so that no worker is idle
    sent = []
    for request_id in range(2, 30):
        now_us = 700 * request_id
        actions = core.handle(RequestArrived(request_id, now_us + 10_000, stream="cam"), now_us)
        actions += core.handle(TimerFired(), now_us + 350)
        core.check_invariants()
        for action in actions:
            if isinstance(action, Dispatch):
                sent += action.request_ids
                core.handle(StageCompleted(action.ticket.batch_id, 0, 0, now_us + 600), now_us + 600)
    assert len(sent) >= 5


def test_a_failed_frame_is_not_tried_again_when_a_newer_one_has_come() -> None:
    world = World(StreamPolicy(keep="newest"))
    world.arrive(0, "cam")
    world.arrive(1, "cam", at_us=100)
    world.told(world.core.handle(BatchFailed(0, 0, 0), 200))
    assert world.dropped == {0: DropReason.SUPERSEDED}
    assert world.sent == [0, 1]


def test_a_failed_frame_that_is_still_the_newest_is_tried_again() -> None:
    world = World(StreamPolicy(keep="newest", share="weighted"))
    world.arrive(0, "cam")
    world.told(world.core.handle(BatchFailed(0, 0, 0), 200))
    assert (world.sent, world.dropped) == ([0, 0], {})


@pytest.mark.parametrize("keep", ["all", "newest"])
def test_places_that_repeat_or_go_back_are_refused_and_others_go_on(keep: str) -> None:
    policy = StreamPolicy(keep="all") if keep == "all" else StreamPolicy(keep="newest")
    world = World(policy, workers=4)
    for request_id, place in enumerate((5, 5, 3, 6)):
        world.arrive(request_id, "cam", place)
    world.arrive(9, "other", 3)
    assert world.dropped == dict.fromkeys((1, 2), DropReason.PLACE)
    assert world.sent == [0, 3, 9]


def test_frames_without_a_place_follow_one_another() -> None:
    world = World(StreamPolicy(), workers=4)
    world.arrive(0, "cam", 7)
    world.arrive(1, "cam")
    world.arrive(2, "cam", 8)
    assert world.dropped == {2: DropReason.PLACE}


def test_a_core_that_takes_over_another_ones_frames_counts_them_once() -> None:
    """They had their places and their rate counted; what comes later is measured by them."""
    world = World(StreamPolicy(most_rps=1), workers=4)
    for number in range(4):
        again = RequestArrived(number, 10_000, stream="cam", place=10 + number, again=True)
        world.told(world.core.handle(again, number))
    assert (world.sent, world.dropped) == ([0, 1, 2, 3], {})
    world.arrive(4, "cam", place=13, at_us=100)
    assert world.dropped == {4: DropReason.PLACE}


def test_of_frames_taken_over_the_newest_waits() -> None:
    world = World(StreamPolicy(keep="newest"))
    for number in range(3):
        world.told(world.core.handle(RequestArrived(number, 10_000, stream="cam", again=True), number))
    assert (world.sent, world.dropped) == ([0], {1: DropReason.SUPERSEDED})


def test_a_frame_that_is_offered_again_keeps_its_place_and_costs_no_rate() -> None:
    world = World(StreamPolicy(most_rps=1.0), workers=4)
    world.arrive(0, "cam", 4, deadline_us=500)
    assert world.dropped == {0: DropReason.EXPIRED}
    again = RequestArrived(0, 10_000, stream="cam", place=4, again=True)
    world.told(world.core.handle(again, 100))
    assert world.sent == [0]


def test_a_stream_sends_no_more_than_its_rate_and_others_do_not_notice() -> None:
    world = World(StreamPolicy(most_rps=50.0), workers=4)
    served = 0
    for number in range(400):  # at 200 frames/s for two seconds
        at_us = 5_000 * number
        world.arrive(2 * number, "loud", at_us=at_us, deadline_us=at_us + 9_000)
        if number % 4 == 0:
            world.arrive(2 * number + 1, "quiet", at_us=at_us, deadline_us=at_us + 9_000)
        for batch_id in [each for each in world.batches if each >= served]:
            world.end(batch_id, at_us + 1_000)
        served = max(world.batches) + 1
    assert set(world.dropped.values()) == {DropReason.RATE}
    assert all(request_id % 2 == 0 for request_id in world.dropped)
    loud = sum(request_id % 2 == 0 for request_id in world.sent)
    assert 100 <= loud <= 100 + 50 * 0.25 + 2


def test_weights_decide_who_is_served_under_overload() -> None:
    """Three streams that always wait, of weights 4, 2 and 1."""
    weights = (StreamWeight("gold", 4.0), StreamWeight("s*", 2.0))
    world = World(StreamPolicy(share="weighted", weights=weights))
    request_id = 0
    for tick in range(700):
        for stream in ("gold", "silver", "plain"):
            world.arrive(request_id, stream, at_us=1_000 * tick, deadline_us=1_000 * tick + 8_000)
            request_id += 1
        for batch_id in list(world.batches):
            world.end(batch_id, 1_000 * tick + 990)
            del world.batches[batch_id]
    share = [sum(sent % 3 == stream for sent in world.sent) / len(world.sent) for stream in range(3)]
    assert share == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=0.01)


def test_a_loud_stream_that_is_alone_has_all() -> None:
    world = World(StreamPolicy(share="weighted", weights=(StreamWeight("*", 0.01),)))
    for tick in range(50):
        world.arrive(tick, "loud", at_us=1_000 * tick, deadline_us=1_000 * tick + 9_000)
        for batch_id in list(world.batches):
            world.end(batch_id, 1_000 * tick + 1_000)
            del world.batches[batch_id]
    assert len(world.sent) >= 49


def test_a_cancelled_frame_leaves_its_stream() -> None:
    world = World(StreamPolicy(keep="newest", share="weighted"))
    world.arrive(0, "cam")
    world.arrive(1, "cam", at_us=10)
    world.told(world.core.handle(RequestCancelled(1), 20))
    assert world.dropped == {1: DropReason.CANCELLED}
    world.arrive(2, "cam", at_us=30)
    world.end_all(1_000)
    assert world.sent == [0, 2]


def test_streams_are_forgotten_when_idle() -> None:
    """Ten thousand streams of one frame each, and then a few."""
    world = SchedulerCore(one_worker(StreamPolicy("stream", "newest", "weighted", 30.0)))
    for request_id in range(10_000):
        world.handle(
            RequestArrived(request_id, 50 * request_id + 500, stream=f"cam-{request_id}"), 50 * request_id
        )
    assert world.known_streams == 10_000
    end_us = 50 * 10_000 + IDLE_US
    for number in range(6_000):
        request_id = 10_000 + number
        world.handle(
            RequestArrived(request_id, end_us + number + 500, stream=f"new-{number}"), end_us + number
        )
    assert world.known_streams <= 6_000
    world.check_invariants()


def test_without_streams_their_names_mean_nothing() -> None:
    world = World(None, workers=4)
    for request_id in range(3):
        world.arrive(request_id, "cam", place=1)
    assert (world.sent, world.dropped) == ([0, 1, 2], {})
