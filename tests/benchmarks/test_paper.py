"""The paper's data through our types: our arithmetic must give the reference's planned rates for its own
plans.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.paper.data import PaperDataError, load_settings, load_three_stage, reference_plan
from planner.rates import batch_build_us, budget_us

DATA = Path(__file__).resolve().parents[3] / "shared" / "paper"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the paper's data folder {DATA} is absent")


@needs_data
@pytest.mark.parametrize("planner", ["ppipe", "np", "dart_r"])
def test_reference_plans_keep_their_objective_and_their_latency(planner: str) -> None:
    for setting in load_settings(DATA):
        plan = reference_plan(setting, planner)
        factors = []
        for demand, model in zip(setting.problem.demands, plan.models, strict=True):
            assert demand.weight is not None
            factors.append(sum(p.throughput_rps for p in model.pipelines) / demand.weight)
            for pipeline in model.pipelines:
                build = batch_build_us(pipeline.stages[0].batch_size, 1.3, demand.batch_build_rps)
                assert pipeline.latency_us + build <= budget_us(demand, setting.problem.options) + 1e-6
        assert min(factors) == pytest.approx(plan.objective, rel=1e-9)


@needs_data
def test_three_stage_problems_have_one_model_each() -> None:
    for setting in load_three_stage(DATA):
        assert [demand.model for demand in setting.problem.demands] == [setting.model]
        assert setting.max_stages == 3


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(PaperDataError, match=r"models\.json: No such file"):
        load_settings(tmp_path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text("{}")
    (tmp_path / "settings.json").write_text('[{"group": 0, "cluster": "A-B"}]')
    with pytest.raises(PaperDataError, match=r"settings\.json\[0\]: 'gpu_types' is missing"):
        load_settings(tmp_path)
