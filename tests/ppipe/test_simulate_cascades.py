"""`ppipe simulate` of a plan with a cascade and a model beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.cascades.data import Cascade, Fanout, Member
from planner.planning import plan
from planner.problem import Demand, PlanOptions
from ppipe.cli import run
from ppipe.simulation import cascade_margin
from ppipe.workspace import Workspace, save
from tests.fixtures.made_problems import MadeSize, made_problem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    problem = made_problem(MadeSize(gpus=9, classes=2, models=3, blocks=2, max_slices=1), 4)
    members = (Member("net00"), Member("net01", "net00", Fanout(2.0, 1.0, 5), "crops"))
    problem = replace(
        problem,
        demands=tuple(Demand(one.model, 3 * one.slo_us, weight=1.0) for one in problem.demands),
        cascades=(Cascade("pair", 400_000, members, weight=1.0),),
        options=PlanOptions(max_stages=1),
    )
    workspace = Workspace(tmp_path_factory.mktemp("cascade"))
    save(problem, workspace.problem)
    save(plan(problem, mode="fast"), workspace.plan)
    return workspace.root


def test_cascades_and_other_models_are_served_side_by_side(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = str(folder / "plan.json")
    assert run(["simulate", what, "--seconds", "4", "--load-factor", "0.5", "--no-bound", "--json"]) == 0
    cascades, models = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [one["cascade"] for one in cascades] == ["pair"]
    assert [one["model"] for one in models] == ["net02"]
    (pair,) = cascades
    assert pair["complete"] + pair["partial"] + pair["declined"] == pair["offered"] > 0
    assert pair["attainment"] > 0.9
    first, second = pair["members"]
    assert first["frames"] == pair["offered"]
    assert second["frames"] == pytest.approx(2 * first["in_time"], rel=0.2)


def test_a_cascades_capacity_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seconds", "2", "--find-capacity", "--no-bound"]
    assert run(["simulate", str(folder / "plan.json"), *options]) == 0
    assert "cascade pair: " in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--curve", "--gantt", "--events"])
def test_what_is_of_single_models_is_refused(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / ("x.jsonl" if option == "--events" else "x.png")
    assert run(["simulate", str(folder / "plan.json"), option, str(path)]) == 1
    assert f"{option}: of models by themselves" in capsys.readouterr().err


def test_the_margin_that_serves_most_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade_margin, "MARGINS", (0.3, 0.99))
    monkeypatch.setattr(cascade_margin, "_SECONDS", 2.0)
    problem = Workspace(folder).load_problem()
    chosen, made, tried = cascade_margin.margin_of_cascades(problem, links="placed")
    assert [one.margin for one in tried] == [0.3], "with 99 % of the SLO left unused there is no plan"
    assert chosen.options.slo_margin == 0.3
    assert made.cascades[0].slo_us == 400_000
    assert all(set(one.served_rps) == {"pair", "net02"} for one in tried)
    rows = cascade_margin.cascade_margin_table(tried, 0.3).row_count
    assert rows == 1
