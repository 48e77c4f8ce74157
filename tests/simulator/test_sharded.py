"""Two entries' cores on one clock: frames pass between them once, capacity stays, two owners do no harm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from planner.serving import ServedModel, ServedPipeline
from planner.shards import Shard, shard_of
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.forwarding import STALE_US, Forwarding
from python_backend.simulator.capacity import Workload, find_capacity
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.execution import Execution
from python_backend.simulator.jitter import Jitter
from python_backend.simulator.shards import Passing, ShardedRun, find_sharded_capacity
from tests.simulator.test_simulation import mixed_model, pool

HALVES = (
    Shard(("a", "b"), 200.0, (((0, 1), (0,)), ((0, 1),))),
    Shard(("b", "a"), 200.0, (((2, 3), (1,)), ((2, 3),))),
)
WORKLOAD = Workload(seconds=10.0, seeds=(1,))


def halves() -> list[ServedModel]:
    return [shard_of(mixed_model(), shard) for shard in HALVES]


def wider(pipeline: ServedPipeline) -> ServedPipeline:
    """With twice the workers in every pool."""
    stages = tuple(
        pool(stage.workers[0].name.partition(".")[0], stage.latency_us, 2 * len(stage.workers))
        for stage in pipeline.stages
    )
    return replace(pipeline, stages=stages)


def forwarding() -> Forwarding:
    way = Forwarding(hop_us=1_000, spare_us=2_000)
    way.add("b", 100.0)
    way.add("c", 100.0)
    return way


def test_a_frame_goes_where_it_waits_least_if_that_is_worth_the_hop() -> None:
    way = forwarding()
    assert way.target(50_000, 0) == "", "nobody was heard of"
    way.told("b", 20_000, 0)
    way.told("c", 10_000, 0)
    assert way.target(12_999, 0) == ""
    assert way.target(13_001, 0) == "c"
    assert way.target(-1, 0) == "b", "nothing is owned here; and c has one frame more by now"


def test_what_was_sent_since_counts_until_the_peer_is_heard_again() -> None:
    way = forwarding()
    way.told("b", 0, 0)
    assert [way.target(25_000, 0) for _ in range(4)] == ["b", "b", "b", ""]
    way.told("b", 0, 1)
    assert way.target(25_000, 1) == "b"


def test_a_peer_that_is_silent_or_gone_gets_nothing() -> None:
    way = forwarding()
    way.told("b", 0, 0)
    assert way.target(10_000, STALE_US - 1) == "b"
    assert way.target(10_000, STALE_US) == ""
    way.told("b", 0, STALE_US)
    way.remove("b")
    way.told("b", 0, STALE_US)
    assert way.target(-1, STALE_US) == ""


def test_one_entry_serves_as_it_does_alone() -> None:
    served, times = mixed_model(), WORKLOAD.times_us(380.0, 1, "mixed")
    alone = SimulatedDriver(served, SchedulerCore(served), Execution(served, Jitter())).run(iter(times))
    run = ShardedRun([served], Passing())
    counts = run.run(iter(times))
    assert (counts.offered, counts.in_time, counts.late, counts.drops) == (
        alone.offered, alone.in_time, alone.late, alone.drops,
    )  # fmt: skip
    assert run.passed == 0


@pytest.mark.parametrize("rate_rps", [50.0, 390.0, 2_000.0])
def test_every_frame_ends_once_wherever_it_is_scheduled(rate_rps: float) -> None:
    times = WORKLOAD.times_us(rate_rps, 1, "mixed")
    run = ShardedRun(halves(), Passing())
    counts = run.run(iter(times))
    assert counts.offered == len(times)
    assert counts.in_time + counts.late + sum(counts.drops.values()) == len(times)
    assert sum(counts.latency_bins) == counts.in_time + counts.late
    for driver in run.drivers:
        driver.core.check_invariants()


def test_a_frame_that_is_passed_on_has_the_hops_less_and_takes_them_longer() -> None:
    """All frames come at the first entry; each hop takes 10 ms."""
    run = ShardedRun(halves(), Passing(hop_us=10_000))
    run.entries = (0,)
    counts = run.run(iter(WORKLOAD.times_us(300.0, 1, "mixed")))
    assert 0 < run.passed == run.drivers[1].counts.offered < counts.offered
    least_us = run.drivers[1].counts.latency_us(0.0)
    assert least_us >= 14_000 + 7_000 + 700 + 20_000


def test_two_shards_that_pass_frames_on_serve_nearly_what_one_scheduler_does() -> None:
    wide = ServedModel("wide", 80_000, 800.0, tuple(map(wider, mixed_model().pipelines)))
    parts = [
        shard_of(wide, Shard(("a", "b"), 400.0, (((0, 1, 2, 3), (0, 1)), ((0, 1, 2, 3),)))),
        shard_of(wide, Shard(("b", "a"), 400.0, (((4, 5, 6, 7), (2, 3)), ((4, 5, 6, 7),)))),
    ]
    rates = [800.0 * (0.7 + 0.03 * step) for step in range(15)]
    workload = Workload(seconds=6.0, seeds=(1,))
    one = find_capacity(wide, "adaptive", rates, workload, 740.0).load_rps
    two = find_sharded_capacity(parts, rates, workload, one).load_rps
    none = find_sharded_capacity(parts, rates, workload, one, Passing(passes=False)).load_rps
    assert two >= 0.95 * one
    assert none < two


def test_two_owners_of_the_same_workers_cost_lateness_and_nothing_else() -> None:
    """The first owns until 4 s, both until 14 s, blind to each other; the second alone from then on."""
    served = mixed_model(slo_us=150_000)
    truth = Execution(served, Jitter())
    run = ShardedRun([served, served], Passing(passes=False), executions=(truth, truth))
    times = list(Workload(seconds=20.0).times_us(0.6 * 400.0, 1, "mixed"))

    def arrivals() -> Iterator[int]:
        for time_us in times:
            run.entries = (0,) if time_us < 4_000_000 else (0, 1) if time_us < 14_000_000 else (1,)
            yield time_us

    counts = run.run(arrivals())
    assert counts.offered == len(times)
    assert counts.in_time + counts.late + sum(counts.drops.values()) == len(times), "each ended once"
    assert [driver.core.lost_workers() for driver in run.drivers] == [[], []]
    assert counts.attainment() > 0.95
    for driver in run.drivers:
        driver.core.check_invariants()
        assert driver.core.in_flight == 0


def test_an_idle_owner_beside_a_busy_one_costs_nothing() -> None:
    served = mixed_model()
    truth = Execution(served, Jitter())
    run = ShardedRun([served, served], Passing(passes=False), executions=(truth, truth))
    run.entries = (0,)
    times = WORKLOAD.times_us(300.0, 1, "mixed")
    alone = SimulatedDriver(served, SchedulerCore(served), Execution(served, Jitter())).run(iter(times))
    assert run.run(iter(times)).in_time == alone.in_time


def test_what_a_shard_waits_for_is_its_own_workers_and_frames() -> None:
    served = replace(mixed_model(), pipelines=(mixed_model().pipelines[1],), planned_rps=80.0)
    core = SchedulerCore(served)
    driver = SimulatedDriver(served, core)
    assert core.backlog_us(0) == 0
    for _ in range(4):
        driver.arrive(0, 0)
    assert core.backlog_us(0) == 50_000, "until the first of its four workers is free"
    assert core.backlog_us(20_000) == 30_000
