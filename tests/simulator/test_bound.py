"""The clairvoyant bound: nothing beats it, not even exhaustive search, and where it should be exact it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.paper.data import load_settings, reference_plan
from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from planner.serving_build import served_model
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.policies import POLICIES
from python_backend.simulator.bound import Bound
from python_backend.simulator.capacity import Workload, try_load
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.fluid import divisible, whole

DATA = Path(__file__).resolve().parents[3] / "shared" / "paper"
Pipelines = list[tuple[list[tuple[tuple[int, ...], int]], int]]


def most_in_time(served: ServedModel, arrivals_us: Sequence[int]) -> int:
    return Bound(served).most_in_time(lambda: arrivals_us)


def stage(name: str, latency_us: tuple[int, ...], workers: int, per_link: int = 1) -> ServedStage:
    return ServedStage(
        gpu="G",
        slices_per_gpu=1,
        latency_us=latency_us,
        workers=tuple(
            ServedWorker(f"{name}.w{w}", "", f"{name}.u{w // per_link}", f"{name}.d{w // per_link}")
            for w in range(workers)
        ),
    )


def model(pipelines: Pipelines, slo_us: int, batch_size: int = 2, per_link: int = 1) -> ServedModel:
    """pipelines: ([(latency_us by batch, workers) per stage], transfer_us of a frame)."""
    made = tuple(
        ServedPipeline(
            batch_size=min(batch_size, *(len(table) for table, _ in stages)),
            stages=tuple(
                stage(f"p{p}s{s}", table, workers, per_link) for s, (table, workers) in enumerate(stages)
            ),
            transfer_us=tuple(tuple(b * hop_us for b in (1, 2, 3)) for _ in stages[1:]),
        )
        for p, (stages, hop_us) in enumerate(pipelines)
    )
    return ServedModel(model="m", slo_us=slo_us, planned_rps=1.0, pipelines=made)


def ascending(gaps: Sequence[int]) -> list[int]:
    return list(itertools.accumulate(gaps))


def tables(longest_us: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Latencies of batches of 1, 2 and 3, some barely longer than one frame's."""
    return st.tuples(
        st.integers(longest_us // 50 + 1, longest_us), st.integers(0, longest_us), st.integers(0, longest_us)
    ).map(lambda t: (t[0], t[0] + t[1], t[0] + t[1] + t[2]))


stages_of = st.lists(st.tuples(tables(500), st.integers(1, 4)), min_size=1, max_size=3)
pipelines_of = st.lists(st.tuples(stages_of, st.integers(0, 80)), min_size=1, max_size=3)


@settings(max_examples=150)
@given(
    pipelines=pipelines_of,
    slo_us=st.integers(50, 3_000),
    gaps=st.lists(st.integers(0, 200), min_size=1, max_size=120),
    batch_size=st.integers(1, 3),
    per_link=st.integers(1, 4),
)
def test_no_policy_beats_the_bound(
    pipelines: Pipelines, slo_us: int, gaps: list[int], batch_size: int, per_link: int
) -> None:
    served = model(pipelines, slo_us, batch_size, per_link)
    times = ascending(gaps)
    most = most_in_time(served, times)
    for policy in POLICIES:
        assert SimulatedDriver(served, SchedulerCore(served, policy)).run(iter(times)).in_time <= most


# Exhaustive search of tiny instances


def partitions(frames: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
    """Every way to put frames into batches of at most three, in every order of the batches."""
    if not frames:
        yield []
        return
    for size in (1, 2, 3):
        for chosen in itertools.combinations(frames, size):
            rest = tuple(frame for frame in frames if frame not in chosen)
            for others in partitions(rest):
                yield [chosen, *others]


def best_schedule(served: ServedModel, times: Sequence[int]) -> int:
    """The most frames in time, over every choice of frames, batches, pipelines, order and workers, where a
    batch keeps together. Links are free, which can only serve more."""
    for count in range(len(times), 0, -1):
        for frames in itertools.combinations(range(len(times)), count):
            if any(in_time(served, times, batches, {}) for batches in partitions(frames)):
                return count
    return 0


def in_time(
    served: ServedModel,
    times: Sequence[int],
    batches: Sequence[tuple[int, ...]],
    free_us: dict[str, int],
) -> bool:
    """Whether these batches, started in this order on every worker they share, can all end in time."""
    if not batches:
        return True
    batch, size = batches[0], len(batches[0])
    for pipeline in served.pipelines:
        for workers in itertools.product(*(stage.workers for stage in pipeline.stages)):
            then = dict(free_us)
            ready_us = max(times[frame] for frame in batch)
            for index, (pool, worker) in enumerate(zip(pipeline.stages, workers, strict=True)):
                if index:
                    ready_us += pipeline.transfer_us[index - 1][size - 1]
                ready_us = max(ready_us, then.get(worker.name, 0)) + pool.latency_us[size - 1]
                then[worker.name] = ready_us
            if ready_us <= times[batch[0]] + served.slo_us and in_time(served, times, batches[1:], then):
                return True
    return False


tiny_stages = st.lists(st.tuples(tables(10), st.integers(1, 2)), min_size=1, max_size=2)


@settings(max_examples=150)
@given(
    pipelines=st.lists(st.tuples(tiny_stages, st.integers(0, 2)), min_size=1, max_size=2),
    slo_us=st.integers(5, 40),
    gaps=st.lists(st.integers(0, 8), min_size=1, max_size=4),
)
def test_no_schedule_at_all_beats_the_bound(pipelines: Pipelines, slo_us: int, gaps: list[int]) -> None:
    served = model(pipelines, slo_us)
    times = ascending(gaps)
    assert best_schedule(served, times) <= most_in_time(served, times)


def test_exhaustive_search_finds_what_there_is_to_find() -> None:
    """Two frames at once on one worker: apart the second is late, together they are in time."""
    served = model([([((10, 12, 40), 1)], 0)], slo_us=15)
    assert best_schedule(served, [0, 0]) == 2
    assert best_schedule(model([([((10, 16, 40), 1)], 0)], slo_us=15), [0, 0]) == 1
    assert best_schedule(model([([((10, 16, 40), 2)], 0)], slo_us=15), [0, 0, 0]) == 2


# The two ways to bound, each against the truth


def largest_matching(open_slots: list[list[tuple[int, int]]]) -> int:
    """Frames matched with slots, by augmenting paths."""
    owner: dict[tuple[int, int], int] = {}

    def place(frame: int, seen: set[tuple[int, int]]) -> bool:
        for slot in open_slots[frame]:
            if slot not in seen:
                seen.add(slot)
                if slot not in owner or place(owner[slot], seen):
                    owner[slot] = frame
                    return True
        return False

    return sum(place(frame, set()) for frame in range(len(open_slots)))


@settings(max_examples=300)
@given(
    windows=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    gaps=st.lists(st.integers(0, 2), min_size=1, max_size=25),
)
def test_divisible_work_is_the_largest_matching(windows: list[int], gaps: list[int]) -> None:
    """With whole numbers and a frame a turn, shares of frames gain nothing over whole ones."""
    times = ascending(gaps)
    slots = [[(p, t) for p, window in enumerate(windows) for t in range(a, a + window)] for a in times]
    found = divisible([1.0] * len(windows), [float(window) for window in windows], times)
    assert found == pytest.approx(largest_matching(slots), abs=1e-6)


def test_divisible_work_shares_a_frame_between_servers() -> None:
    # Servers of 1/4 and 1/2 frame a turn; in two turns each: one and a half frames.
    assert divisible([4.0, 2.0], [2.0, 2.0], [0, 0, 0]) == pytest.approx(1.5)
    # The second server's moments close later and are left for the frame that comes at 2.
    assert divisible([2.0, 2.0], [2.0, 4.0], [0, 0, 2, 2]) == pytest.approx(4.0)


@settings(max_examples=150)
@given(
    workers=st.integers(1, 2),
    latency_us=st.integers(1, 12),
    window_us=st.integers(0, 15),
    gaps=st.lists(st.integers(0, 8), min_size=1, max_size=5),
)
def test_whole_frames_on_one_pool_are_exact(
    workers: int, latency_us: int, window_us: int, gaps: list[int]
) -> None:
    served = model([([((latency_us,), workers)], 0)], slo_us=latency_us + window_us)
    times = ascending(gaps)
    alone = [
        count
        for count in range(len(times) + 1)
        for frames in itertools.combinations(range(len(times)), count)
        if in_time(served, times, [(frame,) for frame in frames], {})
    ]
    assert whole(workers, latency_us, window_us, times) == max(alone)
    assert most_in_time(served, times) == max(alone)


# What it is good for


def test_no_more_than_the_fluid_limit_is_served_for_long() -> None:
    """Batches of 3 are cheapest in both stages, but the SLO has room for one batch of 3 and one of 2 only."""
    two = ((100, 150, 180), 3)
    served = model([([two, two], 0)], slo_us=330)
    # Half of the frames go 3 and 2, half 2 and 3: (60 + 75) / 2 us of each pool's 3 workers.
    assert Bound(served).fluid_rps == pytest.approx(3e6 / 67.5, rel=2e-3)
    assert Bound(model([([two, two], 0)], slo_us=360)).fluid_rps == pytest.approx(3e6 / 60, rel=2e-3)
    assert Bound(model([([two, two], 0)], slo_us=249)).fluid_rps == pytest.approx(3e6 / 100, rel=2e-3)


def test_uplinks_are_counted() -> None:
    """Four workers behind one uplink that takes 50 us a frame."""
    fast = ((10, 20, 30), 4)
    assert Bound(model([([fast, fast], 50)], 1_000, per_link=4)).fluid_rps == pytest.approx(20_000, rel=2e-3)
    assert Bound(model([([fast, fast], 50)], 1_000)).fluid_rps == pytest.approx(80_000, rel=2e-3)


@pytest.mark.parametrize(("load", "least"), [(1.05, 0.93), (1.3, 0.98)])
def test_adaptive_comes_near_the_bound_and_the_bound_falls_with_overload(load: float, least: float) -> None:
    served = model([([((100, 180, 260), 4), ((50, 95, 140), 2)], 5), ([((300, 600, 900), 5)], 0)], slo_us=900)
    bound = Bound(served)
    rate_rps = load * bound.fluid_rps
    workload = Workload(seconds=0.2, seeds=(1, 2))
    most = bound.attainment(rate_rps, workload)
    assert most == pytest.approx(1 / load, rel=0.02)
    reached = try_load(served, "adaptive", rate_rps, workload, target=0.0).attainment
    assert reached is not None
    assert least * most < reached <= most


def test_the_capacity_of_the_bound_is_where_it_falls_below_the_target() -> None:
    served = model([([((100,), 4)], 0)], slo_us=900, batch_size=1)
    bound, workload = Bound(served), Workload(seconds=2.0, seeds=(1, 2))
    found = bound.capacity_rps(workload)
    assert 0.95 * 40_000 < found < 1.03 * 40_000
    assert bound.attainment(found, workload) >= 0.99 > bound.attainment(found + 200, workload)


def test_nothing_can_serve_what_takes_longer_than_the_slo() -> None:
    late = model([([((500, 500, 500), 4)], 0)], slo_us=499)
    assert most_in_time(late, [0, 10]) == 0
    assert Bound(late).capacity_rps(Workload(seconds=1.0)) == 0.0
    assert most_in_time(ServedModel("m", 100, 0.0, ()), [0]) == 0


def test_tables_of_very_many_sizes_are_still_bounded() -> None:
    table = tuple(100 + 10 * b for b in range(300))
    served = model([([(table, 2), (table, 2)], 0)], slo_us=6_100)
    assert Bound(served).fluid_rps == pytest.approx(2e6 / (table[-1] / 300), rel=2e-3)


@pytest.mark.skipif(not (DATA / "settings.json").exists(), reason=f"needs the paper's figures in {DATA}")
def test_a_plan_of_the_paper_cannot_be_overloaded_by_a_tenth() -> None:
    setting = next(setting for setting in load_settings(DATA) if setting.group is not None)
    served = served_model(reference_plan(setting, "ppipe"), setting.problem, setting.problem.demands[0].model)
    workload = Workload(seconds=15.0, seeds=(1,))
    for load in (1.1, 1.3):
        bound = Bound(served)
        most = bound.attainment(load * bound.fluid_rps, workload)
        reached = try_load(served, "adaptive", load * bound.fluid_rps, workload, target=0.0).attainment
        assert reached is not None
        assert reached <= most < 1.02 / load
