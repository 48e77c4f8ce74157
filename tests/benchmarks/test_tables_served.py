"""What tables carried of a load while a rollout went on."""

from __future__ import annotations

import pytest

from benchmarks.helpers.heal.tables_served import carried

SEEN = [(0.0, {"a": 100.0, "b": 100.0}), (4.0, {"a": 10.0, "b": 100.0}), (6.0, {"a": 100.0, "b": 100.0})]


def test_each_table_counts_for_as_long_as_it_served_and_no_more_than_what_comes() -> None:
    rates = {"a": 20.0, "b": 20.0}
    assert carried(SEEN, 0.0, 4.0, rates) == 1.0
    assert carried(SEEN, 4.0, 6.0, rates) == pytest.approx(30 / 40)
    assert carried(SEEN, 2.0, 10.0, rates) == pytest.approx(1 - 2 * 10 / (8 * 40))
    assert carried(SEEN, 5.0, 5.0, rates) == 1.0
