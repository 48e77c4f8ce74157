"""Where nothing can be promised, the message names what is expected and what would do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.expectation import Expectation
from planner.plan import Promise
from planner.planning import plan
from ppipe.simulation import hopeless
from ppipe.simulation.hopeless import NoPromise, require_promises
from ppipe.simulation.judging import Judge
from tests.fixtures.made_problems import MadeSize, made_problem

PROBLEM = made_problem(MadeSize(gpus=8, classes=2, models=1, blocks=5, max_slices=2), seed=3)


def test_it_says_what_does_not_hold_and_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopeless, "SECONDS", 1.0)
    expect = Expectation(stragglers=0.2, straggler_factor=9.0, arrivals="gamma:cv=2")
    options = replace(PROBLEM.options, expect=expect, loss_share=0.01, dispersion=4.0)
    problem = replace(PROBLEM, options=options)
    made = plan(problem, mode="fast")
    none = replace(made.models[0], promise=Promise(0.0, 80.0, 90.0, 0.95))
    with pytest.raises(NoPromise) as raised:
        require_promises(replace(made, models=(none,)), problem, Judge())
    said = str(raised.value)
    assert "net00: no plan that was tried serves 99 % of any load in 95% of the scenarios" in said
    assert "stragglers 0.2, arrivals gamma:cv=2" in said
    assert "serves 80 frames/s" in said
    assert "So would `stragglers: 0` in expect." in said
    assert "arrivals: poisson" not in said
    require_promises(made, problem, Judge())
