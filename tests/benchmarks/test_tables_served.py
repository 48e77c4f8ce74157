"""What tables in between serve of a load in simulation, each for as long as it served."""

from __future__ import annotations

from benchmarks.helpers.heal.tables_served import served_of
from planner.rollout.fleet import Gpu
from tests.fixtures.made_rollouts import PoolKind, table

SEEN = [
    (0.0, {"net": table("net", [[[Gpu("a", 0), Gpu("b", 0)]]], {(0, 0): PoolKind("whole", 10_000, 0)})}),
    (4.0, {"net": None}),
    (6.0, {"net": table("net", [[[Gpu("a", 0)]]], {(0, 0): PoolKind("whole", 10_000, 0)})}),
]
"""200 frames/s, nothing, 100 frames/s."""


def test_each_table_counts_for_as_long_as_it_served() -> None:
    slow = {"net": range(0, 10_000_000, 20_000)}
    assert served_of(SEEN, 0.0, 4.0, slow) == 1.0
    assert served_of(SEEN, 4.0, 6.0, slow) == 0.0
    assert served_of(SEEN, 2.0, 10.0, slow) == 0.75
    assert served_of(SEEN, 5.0, 5.0, slow) == 1.0


def test_a_table_that_is_overloaded_serves_what_it_can() -> None:
    fast = {"net": range(0, 60_000_000, 5_000)}
    assert 0.5 <= served_of(SEEN, 6.0, 60.0, fast) < 0.52
