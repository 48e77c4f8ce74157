"""The testbed's prediction: the simulator with what was fitted on the host."""

from __future__ import annotations

import pytest

from benchmarks import testbed
from benchmarks.helpers.testbed.points import Point, point_from
from benchmarks.testbed import Fitted
from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
)
from planner.profile import TensorSpec
from planner.serving import ServedModel
from python_backend.simulator.arrivals import Poisson

SLO_US = 100_000


def served() -> ServedModel:
    """Four workers of 20 ms: 200 frames/s."""
    spec = TensorSpec("x", "INT64", (1,))
    stage = EmulatedStage((20_000,), ("a", "a", "b", "b"), (spec,))
    model = EmulatedModel("m", SLO_US, 200.0, spec, (EmulatedPipeline(1, (stage,)),))
    return build_manifest([model], 20_000, "d").models[0].served


def trace(rate_rps: float) -> list[int]:
    return list(Poisson(rate_rps).times_us(10.0, 1, "m"))


def point(latency_us: tuple[int | None, ...], reserve_us: int = 0) -> Point:
    return Point(latency_us, 0, 0, 0, 0, 0.0, 0.0, reserve_us)


def test_what_frames_lose_on_the_host_is_the_median_over_those_that_both_served() -> None:
    arrivals = trace(100.0)
    simulated = testbed._simulate(served(), arrivals)
    measured = [None if us is None else us + 4_000 + 100_000 * (i % 5 == 0) for i, us in enumerate(simulated)]
    measured[3] = None
    fitted = testbed._fitted(point(tuple(measured), reserve_us=9_000), served(), arrivals)
    assert fitted == Fitted(overhead_us=4_000, reserve_us=9_000)


def test_what_the_dispatcher_keeps_free_costs_the_simulator_frames_too() -> None:
    arrivals = trace(210.0)
    shares = [
        sum(testbed._simulated_in_time(served(), arrivals, fitted)) / len(arrivals)
        for fitted in (Fitted(0, 0), Fitted(5_000, 5_000), Fitted(5_000, 30_000))
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[2] + 0.01


def test_no_frame_is_in_time_that_the_host_makes_late() -> None:
    arrivals = trace(120.0)
    latencies = testbed._simulate(served(), arrivals)
    in_time = testbed._simulated_in_time(served(), arrivals, Fitted(overhead_us=75_000, reserve_us=0))
    assert 0 < sum(in_time) < sum(us is not None and us <= SLO_US for us in latencies)


def test_capacity_is_where_the_target_is_crossed() -> None:
    points = [{"rate_rps": rate, "a": share} for rate, share in ((100, 1.0), (120, 0.98), (110, 1.0))]
    assert testbed._crossing(points, "a") == pytest.approx(115.0)
    assert testbed._crossing(points[:1], "a") is None


def test_points_survive_json() -> None:
    made = point((1, None, 3), 7)
    assert point_from({**vars(made), "latency_us": [1, None, 3]}) == made
