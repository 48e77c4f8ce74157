"""Plain Triton in simulation: its batching rule, and balancers that choose as they say."""

from __future__ import annotations

import pytest

from benchmarks.paper.baselines import baseline_rps, figures, interval, table
from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from python_backend.simulator.plain import BALANCERS, Balancer, PlainFleet, PlainWorker

SINGLE = PlainWorker((10_000,))
BATCHING = PlainWorker((10_000, 12_000, 14_000, 16_000))


def missed(
    workers: list[PlainWorker],
    times: list[int],
    slo_us: int,
    balancer: Balancer = "round-robin",
    delay: int = 0,
) -> int:
    return PlainFleet(workers, balancer, delay, 1).missed(times, slo_us, 10**6)


def test_frames_wait_for_one_another_only_as_long_as_they_may() -> None:
    # Three frames at once: the first runs alone, the other two together when it is done.
    assert missed([BATCHING], [0, 0, 0], 22_000) == 0
    assert missed([BATCHING], [0, 0, 0], 21_999) == 2
    # With a delay all three run together, once the oldest has waited.
    assert missed([BATCHING], [0, 0, 0], 5_000 + 14_000, delay=5_000) == 0
    assert missed([BATCHING], [0, 0, 0], 5_000 + 13_999, delay=5_000) == 3
    # A full batch does not wait.
    assert missed([BATCHING], [0, 0, 0, 0], 16_000, delay=5_000) == 0


def test_round_robin_does_not_see_that_a_worker_is_slow() -> None:
    slow = PlainWorker((40_000,))
    times = [20_000 * n for n in range(20)]
    assert missed([SINGLE, slow], times, 30_000) == 10
    assert missed([SINGLE, slow], times, 30_000, "least-expected-finish") == 0
    assert missed([SINGLE, slow], times, 30_000, "least-outstanding") == 0


def test_a_run_ends_once_too_many_are_late() -> None:
    fleet = PlainFleet([SINGLE], "round-robin", 0, 1)
    assert 3 < fleet.missed([0] * 100, 10_000, 3) < 10
    with pytest.raises(ValueError, match="no worker can serve the model alone"):
        PlainFleet([], "round-robin", 0, 1)


def test_a_frame_that_waited_too_long_is_rejected_and_spares_those_behind_it() -> None:
    # The second could end at 20 ms only; the third ends in time once that is gone.
    times = [0, 0, 9_000]
    served_late = PlainFleet([SINGLE], "round-robin", 0, 1).missed(times, 19_000, 10)
    rejecting = PlainFleet([SINGLE], "round-robin", 0, 1, rejects=True)
    assert (served_late, rejecting.missed(times, 19_000, 10)) == (2, 1)
    # It is outstanding no more, so a balancer that counts sends the next frame there.
    fleet = PlainFleet([SINGLE, SINGLE], "least-outstanding", 0, 1, rejects=True)
    assert fleet.missed([0, 0, 0, 0, 12_000, 12_000], 19_000, 10) == 2
    # As long as its largest batch would still end in time it is served.
    assert PlainFleet([SINGLE], "round-robin", 0, 1, rejects=True).missed([0, 0], 20_000, 10) == 0


def test_who_knows_more_serves_more() -> None:
    pools = ServedStage("G", 1, (40_000,), (ServedWorker("w", "s", "u", "d"),))
    served = ServedModel("m", 120_000, 400.0, (ServedPipeline(1, (pools,), ()),))
    workers = [(20_000, 34_000, 46_000, 60_000)] * 6 + [(50_000, 80_000)] * 3
    rates = [float(rate) for rate in range(50, 800, 10)]
    loads = {name: baseline_rps(served, workers, name, rates, 8.0, 2) for name in BALANCERS}
    assert all(len(each) == 2 for each in loads.values())
    mean = {name: sum(each) for name, each in loads.items()}
    assert mean["round-robin"] < mean["power-of-two"] < mean["least-expected-finish"]
    assert mean["least-outstanding"] <= mean["least-expected-finish"]
    ours = [1.2 * load for load in loads["least-expected-finish"]]
    row = {"problem": "0/A-B", "model": "m", "ours_rps": ours, "baselines_rps": loads}
    best = [max(loads[name][seed] for name in BALANCERS) for seed in range(2)]
    ratios = [mine / theirs for mine, theirs in zip(ours, best, strict=True)]
    rows = [row | {"ratios": ratios, "ratio": sum(ratios) / 2}]
    found = figures(rows)
    assert found["cases"] == 1
    assert found["round-robin"]["mean_ratio"] > found["best"]["mean_ratio"] > 1
    assert table(rows).row_count == 1


def test_an_interval_is_students() -> None:
    mean, half = interval([1.0, 1.1, 1.2])
    assert mean == pytest.approx(1.1)
    assert half == pytest.approx(4.303 * 0.1 / 3**0.5)
