"""Cameras in simulation: a share for each, answers in order, and no worker's time for old frames."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from benchmarks.streams import pool
from planner.serving import ServedModel, ServedPipeline
from planner.streams import StreamPolicy, StreamWeight
from python_backend.scheduler.actions import Action, DropReason
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.execution import Execution
from python_backend.simulator.jitter import Jitter
from python_backend.simulator.streams import Camera, CameraTotals, camera_frames, jain_index

WEIGHTS = (StreamWeight("gold-*", 4.0), StreamWeight("silver-*", 2.0))
ALL = StreamPolicy("stream", "newest", "weighted", None, WEIGHTS)


def fleet(streams: StreamPolicy | None) -> ServedModel:
    """Fast workers with batches of 8, and a slow pipeline of two stages: 1,000 frames/s."""
    fast = ServedPipeline(batch_size=8, stages=(pool("f", 8_000, 1_500, 8, 2),), transfer_us=())
    stages = (pool("s0", 18_000, 3_000, 4, 1), pool("s1", 15_000, 3_000, 4, 1))
    slow = ServedPipeline(batch_size=4, stages=stages, transfer_us=((500, 800, 1_000, 1_500),))
    return ServedModel(
        model="m", slo_us=100_000, planned_rps=1_012.0, pipelines=(fast, slow), streams=streams
    )


def serve(
    served: ServedModel, cameras: Sequence[Camera], seconds: float, jitter: Jitter | None = None
) -> tuple[SimulatedDriver, CameraTotals]:
    """Invariants are looked at after every 50th event."""
    core = SchedulerCore(served)
    events = itertools.count()

    def observe(event: Event, now_us: int, actions: list[Action]) -> None:
        del event, now_us, actions
        if next(events) % 50 == 0:
            core.check_invariants()

    times, places = itertools.tee(camera_frames(cameras, seconds, seed=3))
    driver = SimulatedDriver(
        served,
        core,
        None if jitter is None else Execution(served, jitter),
        observe,
        places=((frame.stream, frame.place) for frame in places),
    )
    driver.run(frame.time_us for frame in times)
    assert driver.streams is not None
    assert driver.counts.offered == (
        driver.counts.in_time
        + driver.counts.late
        + driver.counts.superseded
        + sum(driver.counts.drops.values())
    )
    return driver, driver.streams


def cameras_of_weights(rate_rps: float, each: int) -> list[Camera]:
    """As many of each weight, every one sending more than its share, every other one twice as much."""
    wanted = [
        (f"{kind}-{number}", weight * (1 + number % 2))
        for kind, weight in (("gold", 4.0), ("silver", 2.0), ("plain", 1.0))
        for number in range(each)
    ]
    total = sum(fps for _, fps in wanted)
    return [Camera(name, rate_rps * fps / total) for name, fps in wanted]


@pytest.mark.parametrize("keep", ["all", "newest"])
def test_an_overloaded_model_is_shared_by_weight(keep: str) -> None:
    policy = ALL if keep == "newest" else replace(ALL, keep="all")
    served = fleet(policy)
    driver, streams = serve(served, cameras_of_weights(1.5 * served.planned_rps, each=20), seconds=8.0)
    assert streams.jain(policy) >= 0.99
    assert streams.out_of_order == 0
    assert driver.counts.in_time >= 0.95 * 8.0 * served.planned_rps, "shares cost no throughput"
    if keep == "newest":
        assert streams.wasted == 0
        assert driver.counts.superseded > 1_000


def test_a_quiet_stream_loses_nothing_to_loud_ones_and_they_share_what_it_leaves() -> None:
    policy = StreamPolicy(share="weighted")
    served = fleet(policy)
    quiet = [Camera(f"quiet-{number}", 10.0) for number in range(20)]
    loud = [Camera(f"loud-{number}", 200.0 + 100.0 * number) for number in range(10)]
    _, streams = serve(served, quiet + loud, seconds=5.0)
    for camera in quiet:
        counts = streams.streams[camera.name]
        assert counts.in_time == counts.offered, camera.name
    rates = [streams.streams[camera.name].in_time / 5.0 for camera in loud]
    assert jain_index(rates) >= 0.99
    assert sum(rates) >= 0.95 * (served.planned_rps - 200.0)


def test_answers_are_in_order_although_pipelines_are_not_equally_fast() -> None:
    for order, expected in (("arrival", False), ("stream", True)):
        policy = StreamPolicy("stream") if order == "stream" else StreamPolicy()
        served = fleet(policy)
        cameras = [Camera(f"c{number}", 90.0) for number in range(10)]
        driver, streams = serve(served, cameras, seconds=3.0, jitter=Jitter(0.1, 0.02, 4.0))
        assert (streams.out_of_order == 0) is expected
        assert driver.counts.in_time >= 0.95 * driver.counts.offered


def test_a_straggler_holds_its_own_stream_alone_and_not_past_its_deadline() -> None:
    served = fleet(StreamPolicy("stream"))
    cameras = [Camera(f"c{number}", 60.0) for number in range(10)]
    driver, streams = serve(served, cameras, seconds=4.0, jitter=Jitter(0.0, 0.01, 20.0))
    assert streams.out_of_order == 0
    assert driver.counts.drops[DropReason.OVERTAKEN] > 0
    assert driver.order is not None
    assert (driver.order.open, driver.order.lines) == ({}, {})


def test_a_stream_that_ends_in_the_middle_holds_nobody_up() -> None:
    served = fleet(ALL)
    cameras = [Camera("gone", 500.0)] + [Camera(f"c{number}", 20.0) for number in range(20)]
    frames = [
        frame for frame in camera_frames(cameras, 3.0, 1) if frame.stream != "gone" or frame.time_us < 500_000
    ]
    driver = SimulatedDriver(
        served, SchedulerCore(served), places=((frame.stream, frame.place) for frame in frames)
    )
    counts = driver.run(frame.time_us for frame in frames)
    assert counts.in_time + counts.superseded == counts.offered
    driver.core.check_invariants()
