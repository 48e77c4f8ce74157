"""The clairvoyant bound: nothing beats it, and where it should be exact it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.policies import POLICIES
from python_backend.simulator.bound import most_in_time
from python_backend.simulator.driver import Driver


def stage(name: str, latency_us: tuple[int, ...], workers: int) -> ServedStage:
    return ServedStage(
        gpu="G",
        slices_per_gpu=1,
        latency_us=latency_us,
        workers=tuple(
            ServedWorker(f"{name}.w{w}", "", f"{name}.u{w}", f"{name}.d{w}") for w in range(workers)
        ),
    )


def model(pipelines: list[tuple[list[tuple[int, int]], int]], slo_us: int) -> ServedModel:
    """pipelines: ([(latency_us of one frame, workers) per stage], transfer_us)."""
    made = tuple(
        ServedPipeline(
            batch_size=2,
            stages=tuple(stage(f"p{p}s{s}", (us, us * 2 - us // 3), n) for s, (us, n) in enumerate(stages)),
            transfer_us=tuple((hop_us, 2 * hop_us) for _ in stages[1:]),
        )
        for p, (stages, hop_us) in enumerate(pipelines)
    )
    return ServedModel(model="m", slo_us=slo_us, planned_rps=1.0, pipelines=made)


stages_of = st.lists(st.tuples(st.integers(10, 500), st.integers(1, 4)), min_size=1, max_size=3)
pipelines_of = st.lists(st.tuples(stages_of, st.integers(0, 50)), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    pipelines=pipelines_of,
    slo_us=st.integers(50, 3_000),
    gaps=st.lists(st.integers(0, 200), min_size=1, max_size=120),
    policy=st.sampled_from(POLICIES),
)
def test_no_policy_beats_the_bound(
    pipelines: list[tuple[list[tuple[int, int]], int]], slo_us: int, gaps: list[int], policy: str
) -> None:
    served = model(pipelines, slo_us)
    times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    counts = Driver(served, SchedulerCore(served, policy)).run(iter(times))
    assert counts.in_time <= most_in_time(served, times)


def test_the_bound_is_exact_for_one_worker() -> None:
    served = ServedModel(
        model="m",
        slo_us=250,
        planned_rps=1.0,
        pipelines=(ServedPipeline(batch_size=1, stages=(stage("a", (100,), 1),), transfer_us=()),),
    )
    times = [0, 0, 0, 100, 400]
    counts = Driver(served, SchedulerCore(served)).run(iter(times))
    assert counts.in_time == most_in_time(served, times) == 4


def test_nothing_can_serve_what_takes_longer_than_the_slo() -> None:
    assert most_in_time(model([([(500, 4)], 0)], slo_us=499), [0, 10]) == 0
    assert most_in_time(ServedModel("m", 100, 0.0, ()), [0]) == 0


@pytest.mark.parametrize("policy", ["adaptive"])
def test_adaptive_comes_near_the_bound(policy: str) -> None:
    served = model([([(100, 4), (50, 2)], 5), ([(300, 5)], 0)], slo_us=900)
    times = list(range(0, 200_000, 19))
    counts = Driver(served, SchedulerCore(served, policy)).run(iter(times))
    assert counts.in_time >= 0.9 * most_in_time(served, times)
