"""Serving through the entry's link in simulation: what it carries is served, under overload too, and several
models share it."""

from __future__ import annotations

import pytest

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
    without_ends,
)
from python_backend.scheduler.actions import DropReason
from python_backend.simulator.arrivals import frame_bytes, parse_arrivals
from python_backend.simulator.bound import Bound
from python_backend.simulator.capacity import Workload
from python_backend.simulator.report import simulate
from python_backend.simulator.together import run_together

FRAME = 350_000
LINK_US_PER_BYTE = 8 / 95.0
"""100 Mbit/s, of which 95 % are carried."""
LINK_RPS = 1e6 / (FRAME * LINK_US_PER_BYTE)


def model(
    latency_us: tuple[int, ...] = (15_000,),
    link_us_per_byte: float = LINK_US_PER_BYTE,
    share: float = 1.0,
    name: str = "m",
    slo_us: int = 250_000,
) -> ServedModel:
    """Two workers on a server of four cores, behind an entry."""
    workers = tuple(
        ServedWorker(name=f"{name}.w{i}", server=name, uplink=f"{name}.up", downlink=f"{name}.down")
        for i in range(2)
    )
    stage = ServedStage(gpu="G", slices_per_gpu=1, latency_us=latency_us, workers=workers)
    sizes = range(1, len(latency_us) + 1)
    ends = ServedEnds(
        entry_us_per_byte=link_us_per_byte,
        server_us_per_byte=8 / 950.0,
        ingress_us=600.0,
        ingress_us_per_byte=link_us_per_byte + 0.0005,
        finish_us=tuple(0 for _ in sizes),
        answer_server_us=tuple(35 * b for b in sizes),
        answer_entry_us=tuple(350 * b for b in sizes),
        answer_us=tuple(600 + 350 * b for b in sizes),
    )
    return ServedModel(
        model=name,
        slo_us=slo_us,
        planned_rps=LINK_RPS * share,
        pipelines=(ServedPipeline(batch_size=len(latency_us), stages=(stage,), transfer_us=(), ends=ends),),
        entry=ServedEntry(
            uplink="entry.up",
            downlink="entry.down",
            frame_bytes=FRAME,
            frame_pixels=2_073_600,
            prepare=FrameCost(100.0, 0.0017, 0.0045),
            hosts=(ServedHost(name, 4),),
        ),
        links=(ServedLink("entry.up", share),) if share < 1 else (),
    )


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_twice_what_the_link_carries_is_refused_as_overload_and_goodput_stays(spread: float) -> None:
    report = simulate(
        model(), 2 * LINK_RPS, workload=Workload(seconds=60.0, seeds=(1,), frame_spread=spread), bound=False
    )
    assert report.goodput_rps >= 0.95 * LINK_RPS
    assert set(report.drops) == {DropReason.OVERLOAD.value}
    assert report.late == 0


def test_a_busy_first_stage_does_not_idle_for_the_way_in() -> None:
    """More is offered than its workers can do: they are busy as if frames were there at once."""
    fed = model(latency_us=(9_000, 14_000, 19_000, 24_000), link_us_per_byte=8 / 9_500.0)
    shares = []
    for served in (fed, without_ends(fed)):
        report = simulate(served, 600.0, workload=Workload(seconds=10.0, seeds=(1,)), bound=False)
        shares.append(report.utilisation["G"])
    assert shares[0] >= 0.98 * shares[1]


def test_no_schedule_is_said_to_serve_less_than_was_served() -> None:
    for load in (0.7, 1.0, 1.5):
        report = simulate(model(), load * LINK_RPS, workload=Workload(seconds=20.0, seeds=(1,)), bound=True)
        assert report.bound_in_time is not None
        assert report.in_time <= report.bound_in_time
    assert Bound(model()).fluid_rps == pytest.approx(LINK_RPS)


@pytest.mark.parametrize("count", [6, 20])
def test_models_that_tell_each_other_fill_the_link_and_no_more(count: int) -> None:
    models = [model(share=1 / count, name=f"m{number}") for number in range(count)]
    counts = run_together(
        models,
        [parse_arrivals("poisson", 2 * one.planned_rps).times_us(30.0, 1, one.model) for one in models],
    )
    assert sum(one.in_time for one in counts) >= 0.95 * LINK_RPS * 30
    assert sum(one.late for one in counts) == 0


def test_frames_vary_about_what_was_planned() -> None:
    sizes = frame_bytes(FRAME, 0.5, seed=1)
    drawn = [next(sizes) for _ in range(20_000)]
    mean = sum(drawn) / len(drawn)
    assert mean == pytest.approx(FRAME, rel=0.02)
    assert (sum((one - mean) ** 2 for one in drawn) / len(drawn)) ** 0.5 == pytest.approx(FRAME / 2, rel=0.05)


def test_workers_do_not_wait_for_another_models_large_transfers_each_time() -> None:
    """One model's transfers take 77 ms and 38 % of the link, the other's 8 to 31 ms and 45 %. Each alone is
    served in full; together they must not lose what the link has left.
    """
    large = model(latency_us=(60_000,), link_us_per_byte=0.22, share=0.7, name="large", slo_us=800_000)
    latency_us = (20_000, 26_000, 32_000, 38_000)
    small = model(latency_us=latency_us, link_us_per_byte=0.022, share=0.3, name="small", slo_us=300_000)
    rates_rps = {"large": 3.6, "small": 59.0}
    counts = run_together(
        [large, small],
        [parse_arrivals("poisson", rps).times_us(30.0, 1, name) for name, rps in rates_rps.items()],
    )
    for one in counts:
        assert one.in_time >= 0.95 * one.offered
