"""Made-up fleets whose links bind are what they are meant to be, and the same from run to run."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.links import FACTORS, made, simulated, why_skipped
from planner.planning import plan


def test_a_fleet_is_its_seeds() -> None:
    one, same, other = (made(np.random.default_rng((1, number))) for number in (3, 3, 4))
    assert one == same
    assert one != other
    sizes = [demand.frame.bytes for demand in one.demands if demand.frame is not None]
    assert len(sizes) == len(one.demands)
    assert all(20_000 <= size <= 500_000 for size in sizes)


def test_a_fleet_whose_links_bind_has_a_capacity_near_its_plan() -> None:
    problem = made(np.random.default_rng((1, 0)))
    planned = plan(problem, mode="fast")
    assert why_skipped(planned) == ""
    outcome = simulated(problem, planned, frames=300, draws=1)
    assert outcome.each <= outcome.together
    assert FACTORS[0] < outcome.together < FACTORS[-1]
    assert outcome.ratio == pytest.approx(1 / outcome.together)
