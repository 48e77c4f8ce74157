"""Cascades in simulation: bunches on one core, and what a frame's end is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.cascades.data import Cascade, Fanout, Member
from planner.serving import ServedModel
from planner.streams import StreamPolicy
from python_backend.scheduler.core import SchedulerCore
from python_backend.simulator import bunches
from python_backend.simulator.bunches import NEVER_ANSWERED, serve_bunches
from python_backend.simulator.capacity import Workload
from python_backend.simulator.cascades import is_reached, simulate_cascade
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.jitter import Jitter
from tests.simulator.test_simulation import mixed_model, single


@pytest.mark.parametrize("jitter", [Jitter(), Jitter(0.1)])
@pytest.mark.parametrize("rate_rps", [200.0, 500.0])
def test_single_frames_are_served_as_by_the_driver(rate_rps: float, jitter: Jitter) -> None:
    served, workload = mixed_model(), Workload(seconds=5.0, seeds=(3,), jitter=jitter)
    times = np.unique(np.array(workload.times_us(rate_rps, 3, served.model)))
    counts = SimulatedDriver(served, SchedulerCore(served), workload.execution(served, 3)).run(
        iter(times.tolist())
    )
    answered = serve_bunches(served, times, times + served.slo_us, workload)
    there = answered != NEVER_ANSWERED
    assert int(there.sum()) == counts.in_time + counts.late
    assert int((answered[there] <= times[there] + served.slo_us).sum()) == counts.in_time


def test_a_bunch_shares_batches_and_keeps_to_its_own_deadlines() -> None:
    served = mixed_model()
    come = np.zeros(4, dtype=np.int64)
    early = serve_bunches(served, come, np.array([80_000, 80_000, 1_000, 80_000]), Workload(seeds=(1,)))
    # Two stages in a batch of two: 25 + 1.4 + 12.5 ms; the third frame cannot be in time.
    assert early.tolist()[2] == NEVER_ANSWERED
    assert sorted(early.tolist())[1:3] == [38_900, 38_900]


def pair(slo_us: int, classes: ServedModel) -> tuple[Cascade, dict[str, ServedModel]]:
    """One worker that finds in 10 ms exactly three things in each frame, and what classifies these."""
    members = (Member("find"), Member("name", "find", Fanout(3.0, 0.0, 3), "crops"))
    return Cascade("both", slo_us, members), {"find": single(10_000, 1, 20_000), "name": classes}


def test_a_frame_ends_with_the_last_that_came_of_it() -> None:
    cascade, served = pair(60_000, single(5_000, 1, 40_000))
    found = simulate_cascade(cascade, served, 10.0, Workload("cameras:fps=10", 10.0, (1,)))
    assert found.offered == found.complete == 100
    assert [(one.model, one.frames, one.in_time) for one in found.members] == [
        ("find", 100, 100), ("name", 300, 300),
    ]  # fmt: skip
    assert found.latency_p50_us == 10_000 + 3 * 5_000


def test_a_frame_of_which_something_is_late_is_partial() -> None:
    # The third of three in turn would be there after 10 + 3 * 5 ms.
    cascade, served = pair(22_000, single(5_000, 1, 2_000))
    found = simulate_cascade(cascade, served, 10.0, Workload("cameras:fps=10", 5.0, (1,)))
    assert (found.complete, found.partial, found.declined) == (0, 50, 0)
    assert [one.in_time for one in found.members] == [50, 100]


def test_what_the_first_leaves_of_its_part_the_next_one_has() -> None:
    # With its own 2 ms alone the second could serve none.
    cascade, served = pair(27_000, single(5_000, 1, 7_000))
    found = simulate_cascade(cascade, served, 5.0, Workload("cameras:fps=5", 5.0, (1,)))
    assert found.complete == found.offered


def test_the_same_seed_gives_the_same_report() -> None:
    cascade, served = pair(60_000, single(5_000, 2, 40_000))
    workload = Workload(seconds=5.0, seeds=(4,))
    assert simulate_cascade(cascade, served, 60.0, workload) == simulate_cascade(
        cascade, served, 60.0, workload
    )


def test_frames_of_streams_give_way_to_newer_ones_and_count_apart() -> None:
    cascade, served = pair(60_000, mixed_model())
    served["find"] = replace(served["find"], streams=StreamPolicy(keep="newest"))
    workload = Workload(seconds=3.0, seeds=(1,), streams=4)
    report = simulate_cascade(cascade, served, 300.0, workload)
    assert report.superseded > 0
    ends = report.complete + report.partial + report.declined + report.superseded
    assert ends == report.offered
    assert report.attainment == report.complete / (report.offered - report.superseded)
    plain = simulate_cascade(cascade, served, 300.0, replace(workload, streams=0))
    assert plain.superseded == 0, "frames that name no stream give way to none"


@pytest.mark.parametrize("jitter", [Jitter(), Jitter(0.3)])
@pytest.mark.parametrize("streams", [0, 3])
@pytest.mark.parametrize("rate_rps", [20.0, 40.0, 55.0, 60.0, 65.0, 80.0, 200.0])
def test_breaking_off_changes_no_judgement(rate_rps: float, streams: int, jitter: Jitter) -> None:
    """A simulation is broken off only where the whole of it would miss the target too."""
    cascade, served = pair(70_000, single(5_000, 1, 50_000))
    if streams:
        served["find"] = replace(served["find"], streams=StreamPolicy(keep="newest"))
    workload = Workload(seconds=3.0, seeds=(1, 2, 3), jitter=jitter, streams=streams)
    each = [replace(workload, seeds=(seed,)) for seed in workload.seeds]
    whole = [simulate_cascade(cascade, served, rate_rps, one).attainment for one in each]
    mean = sum(whole) / len(whole)
    for target in (0.5, 0.9, 0.99, mean):
        reached = is_reached(cascade, served, rate_rps, workload, target)
        assert reached == (mean >= target - 1e-9), f"{mean} against {target}"


def test_what_cannot_reach_the_target_is_broken_off_early(monkeypatch: pytest.MonkeyPatch) -> None:
    served = mixed_model()
    come = np.arange(0, 3_000_000, 1_000)
    missing = bunches.Missing(len(come), 30)
    watch = bunches.MissingOf(missing, range(len(come)), (come + served.slo_us).tolist())
    seen: list[int] = []
    arrive = bunches._Run.arrive

    def noted(run: bunches._Run, now_us: int, frames: list[tuple[int, int]]) -> None:
        seen.append(now_us)
        arrive(run, now_us, frames)

    monkeypatch.setattr(bunches._Run, "arrive", noted)
    with pytest.raises(bunches.TooMuchMissing):
        serve_bunches(served, come, come + served.slo_us, Workload(seeds=(1,)), watch=watch)
    assert seen[-1] < 600_000, "at four times what is served, 31 frames are missing soon"
