"""What links are planned with: the room that the margin leaves, and that simulation serves the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.cluster import Cluster, EntryServer, GpuClass, Server
from planner.entry import entry_rows
from planner.feasibility import violations
from planner.frames import FrameSize
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Demand, PlanOptions, Problem
from planner.profile import LatencyTable, ModelProfile, Overheads, Profile, TensorSpec
from planner.serving_build import served_model
from planner.usable import usable_of_link, usable_share
from python_backend.simulator.arrivals import parse_arrivals
from python_backend.simulator.together import run_together

BATCHES = (1, 2, 4)


def made(
    frames: dict[str, int],
    entry_mbit: float,
    server_mbit: float = 10_000,
    slo_ms: float = 400,
    block_us: float = 3_000,
    servers: int = 2,
    count_ends: bool = True,
) -> Problem:
    """Models with frames of so many bytes on servers of two GPUs each, which do more than links carry."""
    models = tuple(
        ModelProfile(
            model=name,
            cut_bytes=(20_000,),
            tables=(
                LatencyTable("G", 1, BATCHES, (tuple(block_us * (0.6 + 0.4 * b) for b in BATCHES),) * 2),
            ),
            outputs=(TensorSpec("logits", "FP32", (10,)),),
            overheads=Overheads(hop_us=500.0),
        )
        for name in frames
    )
    return Problem(
        cluster=Cluster(
            gpu_classes=(GpuClass("G"),),
            servers=tuple(Server(f"s{i}", "G", 2, server_mbit / 1000) for i in range(servers)),
            entry=EntryServer(bandwidth_gbps=entry_mbit / 1000, client_bandwidth_gbps=10.0),
            carried_share=0.95,
        ),
        profile=Profile(models),
        demands=tuple(
            Demand(name, round(slo_ms * 1000), weight=1.0, frame=FrameSize(640, 480, size))
            for name, size in frames.items()
        ),
        options=PlanOptions(count_ends=count_ends),
    )


def served_share(planned: Plan, problem: Problem, load: float, seconds: float = 40.0) -> float:
    """Of frames that come at `load` times the planned rates, those served in time."""
    tables = [served_model(planned, problem, model.model, "placed") for model in planned.models]
    counts = run_together(
        tables,
        [
            parse_arrivals("poisson", load * model.throughput_rps).times_us(seconds, 1, model.model)
            for model in planned.models
        ],
    )
    return sum(one.in_time for one in counts) / sum(one.offered for one in counts)


def test_more_room_makes_more_of_a_link_usable() -> None:
    shares = [usable_of_link(wait_us, 5_000.0, 0.01) for wait_us in (0, 10_000, 50_000, 200_000, 1_000_000)]
    assert shares == sorted(shares)
    assert 0.2 < shares[0] < shares[1] < 1.0
    assert usable_of_link(6_000_000, 5_000.0, 0.01) == 1.0
    assert usable_of_link(50_000, 5_000.0, 0.01) == usable_share(10.0, 0.005)
    assert usable_of_link(50_000, 5_000.0, 0.01, dispersion=3.0) < usable_of_link(50_000, 5_000.0, 0.01)


def test_what_counts_of_the_entrys_link_follows_the_margin_and_the_frames() -> None:
    def usable(problem: Problem) -> float:
        return min(row.usable for row in entry_rows(problem))

    small, large = made({"m": 20_000}, 100), made({"m": 400_000}, 100)
    assert usable(small) > usable(large)
    tight = replace(large, options=replace(large.options, slo_margin=0.2))
    assert usable(tight) < usable(large)
    hurried = made({"m": 400_000}, 100, slo_ms=200)
    assert usable(hurried) < usable(large)
    assert usable(made({"a": 400_000, "b": 20_000}, 100)) < usable(made({"a": 210_000, "b": 210_000}, 100))


def test_a_plan_says_how_much_of_the_link_it_uses_and_keeps_to_it() -> None:
    problem = made({"m": 350_000}, 200)
    planned = plan(problem)
    (link,) = [use for use in planned.entry if use.resource == "link"]
    assert link.capacity == pytest.approx(0.2)
    assert 0.8 < link.usable < 0.95
    assert link.busy == pytest.approx(1.0)
    assert planned.models[0].throughput_rps == pytest.approx(link.usable * 0.2e9 * 0.95 / 8 / 350_000)
    assert planned.models[0].bound_by == ("entry link",)
    assert planned.gap < 1e-4
    assert violations(planned, problem) == []


def test_ends_that_are_not_counted_know_no_room() -> None:
    problem = made({"m": 350_000}, 200, count_ends=False)
    assert entry_rows(problem) == ()


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(made({"m": 350_000}, 200), id="entry"),
        pytest.param(made({"m": 500_000}, 150, slo_ms=700, block_us=9_000), id="slow"),
        pytest.param(made({"m": 60_000}, 50, slo_ms=150), id="hurried"),
        pytest.param(made({"m": 300_000}, 5_000, server_mbit=150), id="servers"),
        pytest.param(made({"a": 300_000, "b": 30_000}, 250, slo_ms=500), id="two"),
    ],
)
def test_what_links_are_planned_to_carry_is_served(problem: Problem) -> None:
    """Within a tenth: 99 % at 0.9 of the planned rates, and no longer at 1.2 of them."""
    planned = plan(problem)
    assert {what for model in planned.models for what in model.bound_by} & {"entry link", "links"}
    assert served_share(planned, problem, 0.9) >= 0.99
    assert served_share(planned, problem, 1.2) < 0.99
