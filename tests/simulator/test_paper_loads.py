"""The simulator against the reference's own results: its plans, rule and loads. Skipped without the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.paper.capacity import STEP, Options, grid_rps
from benchmarks.paper.capacity_cli import summary
from benchmarks.paper.data import load_settings, reference_plan
from planner.serving_build import served_model
from python_backend.simulator.capacity import Workload, find_capacity, try_load

DATA = Path(__file__).resolve().parents[3] / "shared" / "paper"
needs_data = pytest.mark.skipif(
    not (DATA / "settings.json").exists(), reason=f"needs the paper's figures in {DATA}"
)


@needs_data
@pytest.mark.parametrize("planner", ["ppipe", "np", "dart_r"])
def test_the_reference_rule_bears_the_reference_loads(planner: str) -> None:
    setting = next(setting for setting in load_settings(DATA) if setting.group is not None)
    plan = reference_plan(setting, planner)
    for index, model in enumerate(plan.models):
        planned_rps = setting.reference["ppipe"]["planned_rps"][index]
        expected_rps = setting.reference[planner]["load_at_99_rps"][index]
        served = served_model(plan, setting.problem, model.model)
        found = find_capacity(
            served, "reference", grid_rps(planned_rps, 20), Workload(seeds=(1,)), expected_rps
        )
        assert abs(found.load_rps - expected_rps) <= STEP * planned_rps + 1


@needs_data
def test_adaptive_serves_the_reference_plans_as_well_as_the_reference_rule() -> None:
    setting = [setting for setting in load_settings(DATA) if setting.group is not None][2]
    plan = reference_plan(setting, "ppipe")
    workload = Workload(seconds=15.0, seeds=(1,))
    for model in plan.models:
        served = served_model(plan, setting.problem, model.model)
        ours, theirs = (
            try_load(served, policy, served.planned_rps, workload, target=0.0).attainment
            for policy in ("adaptive", "reference")
        )
        assert ours is not None
        assert theirs is not None
        assert ours > theirs - 0.003


def test_the_grid_is_whole_frames_at_every_step() -> None:
    assert grid_rps(632.07, 4) == [31.0, 63.0, 94.0, 126.0]
    assert Options(seeds=2).workload().seeds == (1, 2)


def test_a_summary_adds_up_the_models_of_a_setting() -> None:
    row = {
        "group": 0,
        "cluster": "A-B",
        "load_rps": 110.0,
        "reference_load_rps": 100.0,
        "load_factor": 1.1,
        "ratio": 1.1,
        "utilisation": {"A": 0.3, "B": 0.2},
    }
    worse = row | {"load_rps": 80.0, "load_factor": 0.8, "ratio": 0.8}
    totals = summary([row, worse])
    assert totals["mean_ratio"] == pytest.approx(0.95)
    assert totals["least_ratio"] == 0.8
    assert totals["utilisation_high"] == pytest.approx(0.6)
    assert totals["utilisation_low"] == pytest.approx(0.4)
    assert totals["within_one_step"] == 0
