"""Grouping layers into blocks: equal to brute force, bounds that hold, clear errors."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.blocks import BOUNDS, group_layers


def block_times(row, cuts):
    ends = [cut + 1 for cut in cuts] + [len(row)]
    return [sum(row[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def holds(times, cuts, count, lower, upper):
    for row in times:
        mean = sum(row) / count
        slack = 1e-9 * sum(row)
        if any(not lower * mean - slack <= block <= upper * mean + slack for block in block_times(row, cuts)):
            return False
    return True


@st.composite
def problems(draw):
    layers = draw(st.integers(1, 8))
    classes = draw(st.integers(1, 2))
    time = st.integers(0, 9).map(float)
    times = [draw(st.lists(time, min_size=layers, max_size=layers)) for _ in range(classes)]
    cut_bytes = draw(st.lists(st.integers(0, 20), min_size=layers - 1, max_size=layers - 1))
    return times, cut_bytes, draw(st.integers(1, 9))


@given(problems())
def test_equals_brute_force_at_the_tightest_bounds_that_can_hold(problem):
    times, cut_bytes, wanted = problem
    count = min(wanted, len(cut_bytes) + 1)
    result = group_layers(times, cut_bytes, wanted)
    choices = list(itertools.combinations(range(len(cut_bytes)), count - 1))
    for lower, upper in BOUNDS:
        valid = [cuts for cuts in choices if holds(times, cuts, count, lower, upper)]
        if valid:
            break
    assert (result.lower, result.upper) == (lower, upper)
    assert result.cuts in valid
    assert result.cut_bytes == min(sum(cut_bytes[cut] for cut in cuts) for cuts in valid)


def test_balanced_layers_take_the_cheapest_balanced_cuts():
    result = group_layers([[1.0] * 6], [9, 1, 9, 1, 9], block_count=3)
    assert result.cuts == (1, 3)
    assert (result.lower, result.upper) == (0.8, 1.2)


def test_of_equal_bytes_the_most_even_blocks_win():
    assert group_layers([[10.0, 1.0, 1.0, 10.0]], [5, 5, 5], block_count=2).cuts == (1,)


def test_a_giant_layer_relaxes_the_bounds():
    result = group_layers([[1.0, 1.0, 98.0]], [1, 1], block_count=3)
    assert result.cuts == (0, 1)
    assert result.upper >= 98 / (100 / 3)


def test_bounds_hold_on_every_class():
    # Each class alone would cut elsewhere.
    result = group_layers([[4.0, 1.0, 1.0, 2.0], [2.0, 1.0, 1.0, 4.0]], [0, 7, 0], block_count=2)
    assert result.cuts == (1,)


def test_more_blocks_than_layers_gives_one_block_per_layer():
    assert group_layers([[1.0, 2.0]], [3], block_count=10).cuts == (0,)


@pytest.mark.parametrize(
    ("times", "cut_bytes", "count", "message"),
    [
        ([[1.0]], [], 0, "block_count 0 must be at least 1"),
        ([], [1], 2, "at least one GPU class"),
        ([[1.0]], [1], 2, r"times\[0\]: 1 layers where 1 cuts make 2"),
        ([[1.0, float("nan")]], [1], 2, "finite times"),
        ([[1.0, -1.0]], [1], 2, "finite times"),
    ],
)
def test_input_that_does_not_fit_is_refused(times, cut_bytes, count, message):
    with pytest.raises(ValueError, match=message):
        group_layers(times, cut_bytes, count)
