"""The three hosts of the benchmark, as the planner sees them; and what its client says of refusals."""

from __future__ import annotations

import pytest

from benchmarks.helpers.loads.jpeg import Sent, reasons
from benchmarks.helpers.machines.hosts import Host
from benchmarks.helpers.machines.three_hosts import CASES, Case, make_deployment, make_profile
from planner.planning import plan

MADE = {
    name: Host(name, name, f"10.213.0.{number}", switch="switch", port=name)
    for number, name in enumerate(("entry", "fast", "slow"), 2)
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_entrys_link_binds_and_no_more_is_promised_than_it_carries(case: Case) -> None:
    made = plan(make_deployment(case, MADE).to_problem(make_profile(case)))
    (model,) = made.models
    assert "entry link" in model.bound_by
    carried_rps = case.entry_mbit * 1e6 / 8 / case.frame_bytes
    assert 0.8 * carried_rps < model.throughput_rps <= carried_rps
    classes = {stage.gpu for pipeline in model.pipelines for stage in pipeline.stages}
    assert classes == {"fast", "slow"}, "the link binds before the GPUs do, but not before the fast ones"


def test_refusals_are_counted_by_what_they_say() -> None:
    errors = [
        "",
        "UNAVAILABLE: net: too late: reason=overload",
        "UNAVAILABLE: x: reason=overload",
        "INTERNAL: boom",
    ]
    assert reasons([Sent(0, error=error) for error in errors]) == {"INTERNAL": 1, "overload": 2}
