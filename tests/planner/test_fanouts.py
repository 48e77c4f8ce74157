"""How many frames come of an answer, as drawn: what is planned must be what is simulated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cascades.data import Fanout
from planner.cascades.fanouts import chances, draw_counts
from planner.deployment.cascade import MemberSpec


def stated(count: float, deviation: float | None = None, most: int | None = None) -> Fanout:
    spec = MemberSpec.model_validate(
        {"model": "b", "of": "a", "count": count, "deviation": deviation, "most": most}
    )
    return spec.to_member().fanout


def mean_and_variance(fanout: Fanout) -> tuple[float, float]:
    found, counts = chances(fanout), np.arange(fanout.most + 1)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1.0)
    mean = float((found * counts).sum())
    return mean, float((found * counts**2).sum()) - mean**2


@given(st.floats(1e-3, 60.0), st.floats(0.0, 3.0), st.integers(1, 300))
def test_the_mean_is_the_one_that_rates_are_planned_by(count: float, spread: float, most: int) -> None:
    """Whatever is cut off above the most, and however mean and variance round."""
    most = max(most, int(np.ceil(count)))
    deviation = min(spread * count, float(np.sqrt(count * (most - count))))
    for fanout in (stated(count), stated(count, deviation), stated(count, deviation, most)):
        mean, _ = mean_and_variance(fanout)
        assert mean == pytest.approx(count, rel=1e-6)
        assert fanout.bunch >= 1 - 1e-9, "a frame is one of its bunch"


@pytest.mark.parametrize("count", [0.05, 0.3, 2.0, 3.0, 5.0, 7.0, 10.0, 11.0, 50.0, 10_000.0])
def test_without_a_deviation_numbers_are_as_poisson_has_them(count: float) -> None:
    mean, variance = mean_and_variance(stated(count))
    assert mean == pytest.approx(count, rel=1e-6)
    assert variance == pytest.approx(count, rel=0.05)
    drawn = draw_counts(stated(count), 20_000, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(count, rel=0.12 if count < 0.1 else 0.03)


@pytest.mark.parametrize(
    ("mean", "deviation"),
    [(4.0, 0.0), (4.0, 1.0), (4.0, 1.5), (4.0, 5.0), (0.5, 0.7), (0.5, 0.5), (3.0, 1.0), (4.5, 0.5)],
)
def test_numbers_have_the_mean_and_spread_that_were_asked(mean: float, deviation: float) -> None:
    drawn = draw_counts(Fanout(mean, deviation, 1_000), 20_000, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(mean, rel=0.03)
    assert drawn.std() == pytest.approx(deviation, rel=0.05)


def test_no_more_come_than_the_most() -> None:
    drawn = draw_counts(Fanout(8.0, 8.0, 20), 20_000, np.random.default_rng(1))
    assert (drawn.min(), drawn.max()) == (0, 20)
    assert drawn.mean() == pytest.approx(8.0, rel=0.03)


def test_a_mean_that_is_the_most_is_always_reached() -> None:
    assert set(draw_counts(stated(4, most=4), 1_000, np.random.default_rng(1))) == {4}


def test_a_spread_that_no_numbers_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b: deviation 10 is too large: .* at most 8 .* of at most 4"):
        stated(4, 10, 8)
    assert stated(1, 10).most >= 101, "where none is stated, the most leaves room for the spread"
