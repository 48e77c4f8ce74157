"""Costs of preparing: what timed frames say, and for which preprocessing it counts."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.deployment import Deployment, parse_deployment, prepare_key, recipe_of
from planner.deployment.model import input_spec
from planner.frames import FrameCost
from planner.profile import ModelProfile, Profile
from planner.profiling.prepare_fit import FrameTime, fit_cost
from ppipe.prepare_times import measure_prepare
from tests.ensembles.recipes import recipe
from tests.planner.test_deployment import changed

SIZES = [(pixels, share) for pixels in (300_000, 1_000_000, 2_000_000) for share in (0.1, 0.2, 0.4)]
PARTS = st.floats(0, 1e-2)


@given(st.floats(0, 2_000), PARTS, PARTS)
def test_a_cost_that_is_there_is_found(fixed_us: float, per_pixel: float, per_byte: float) -> None:
    true = FrameCost(fixed_us, per_pixel, per_byte)
    sizes = [(pixels, round(pixels * share)) for pixels, share in SIZES]
    times = [FrameTime(pixels, size, 1 + true.us(pixels, size)) for pixels, size in sizes]
    found = fit_cost(times).cost
    for time in times:
        assert found.us(time.pixels, time.bytes) == pytest.approx(time.us, rel=1e-3)


def test_no_part_is_below_zero_and_two_frames_are_too_few() -> None:
    times = [FrameTime(pixels, 1, 1e9 / pixels) for pixels in (1_000, 2_000, 4_000)]
    found = fit_cost(times, by_bytes=False)
    assert found.cost.fixed_us > 0 == found.cost.us_per_pixel
    with pytest.raises(ValueError, match="3 different frames are needed"):
        fit_cost(times[:2])


def test_a_measured_cost_counts_for_the_preprocessing_that_it_was_measured_for() -> None:
    def planned(**preprocess: object) -> FrameCost | None:
        deployment = deployed(**preprocess)
        return deployment.with_costs(Profile((measured,))).models[0].prepare

    spec = deployed(preset="yolo").models[0]
    assert spec.preprocess is not None
    key = prepare_key(recipe_of(spec.preprocess, input_spec(spec), "net"))
    cost = FrameCost(7.0, 0.1, 0.2)
    measured = ModelProfile("net", (), (), prepare=cost, provenance={"prepare": json.dumps({"of": key})})
    assert planned(preset="yolo") == planned(preset="yolo", mean=3) == cost
    other = planned(preset="torchvision")
    assert other is not None
    assert other.assumed
    stated = dataclasses.replace(measured, provenance={})
    assert deployed(preset="yolo").with_costs(Profile((stated,))).models[0].prepare == cost


def deployed(**preprocess: object) -> Deployment:
    return parse_deployment(changed("models.0.preprocess", preprocess), "test")


@pytest.mark.slow
def test_preparing_is_timed_as_stages_do_it() -> None:
    found = measure_prepare(recipe((3, 64, 64), kind="raw", max_pixels=8_000_000), repeats=1)
    assert found.cost.us(2_073_600, 6_220_800) > 50
