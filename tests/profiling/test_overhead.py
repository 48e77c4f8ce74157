"""Overheads from timed calls: a robust line, and what of it is planned elsewhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.profile import ModelProfile, Overheads, Profile
from planner.profiling.overhead import HopTimes, fit_line, fit_overheads, with_overheads

SIZES = (4_096, 65_536, 262_144, 1_048_576, 4_194_304, 12_582_912)


def times(fixed_us: float, per_byte_us: float, **other: float) -> HopTimes:
    calls = {size: 800 + fixed_us + per_byte_us * size for size in SIZES}
    return HopTimes(one_stage_us=800, two_stages_us=calls, stage_busy_us=150.0, **other)


def test_a_stage_and_a_hop_are_told_apart():
    found = fit_overheads(times(1_000, 0.0004))
    assert found.overheads.stage_us == 150
    assert found.overheads.hop_us == pytest.approx(850, abs=0.2)
    assert found.overheads.hop_us_per_byte == pytest.approx(0.0004)
    assert found.residual == pytest.approx(0, abs=1e-6)


@given(
    st.floats(10, 5_000),
    st.floats(1e-5, 1e-2),
    st.integers(0, len(SIZES) - 1),
    st.floats(-0.9, 20),
)
def test_one_disturbed_size_moves_the_line_little(fixed, slope, which, disturbance):
    ys = [fixed + slope * size for size in SIZES]
    if which == len(SIZES) - 1:
        return  # the largest size alone tells the slope of so few
    ys[which] *= 1 + disturbance
    found_fixed, found_slope = fit_line(SIZES, ys)
    assert found_slope == pytest.approx(slope, rel=0.02)
    assert found_fixed == pytest.approx(fixed, rel=0.05, abs=0.02 * slope * SIZES[-1])


def test_no_cost_is_below_nothing():
    found = fit_overheads(times(100, -1e-6))
    assert found.overheads == Overheads(stage_us=150, hop_us=0, hop_us_per_byte=0)


def test_the_wire_between_hosts_is_planned_on_its_own():
    across_10_gbps = times(1_000, 0.0010)
    assert fit_overheads(across_10_gbps, wire_gbps=10).overheads.hop_us_per_byte == pytest.approx(0.0002)
    assert fit_overheads(across_10_gbps, wire_gbps=1).overheads.hop_us_per_byte == 0


def test_one_size_is_no_line():
    with pytest.raises(ValueError, match=r"a line needs two sizes or more; got \[4096\]"):
        fit_line([4096], [1.0])


def test_every_model_gets_them_with_what_they_rest_on():
    models = tuple(
        ModelProfile(model=name, cut_bytes=(), tables=(), provenance={"device": "x"}) for name in "ab"
    )
    found = fit_overheads(times(1_000, 0.0004))
    made = with_overheads(Profile(models=models), found)
    assert {model.overheads for model in made.models} == {found.overheads}
    note = json.loads(made.model("b").provenance["overheads"])
    assert note["one_stage_us"] == 800
    assert note["two_stages_us"]["4096"] == pytest.approx(1801.6, abs=0.1)
    assert made.model("b").provenance["device"] == "x"
