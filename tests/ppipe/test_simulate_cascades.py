"""`ppipe simulate` of a plan with a cascade and a model beside it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from planner.cascades.data import Cascade, Fanout, Member
from planner.cascades.demands import divided
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Demand, Objective, PlanOptions, Problem
from planner.serial import content_hash
from ppipe.cli import run
from ppipe.simulation import cascade_choice, cascade_margin
from ppipe.simulation.cascades import cascade_capacities, serve_enough
from ppipe.workspace import Workspace, save
from python_backend.simulator.capacity import Workload
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


def test_a_plan_of_two_entries_says_that_it_is_simulated_as_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = Workspace(folder).load_problem()
    entry = replace(problem.cluster.entry, name="a")
    cluster = replace(problem.cluster, entry=entry, more_entries=(replace(entry, name="b"),))
    demands = tuple(one for one in problem.demands if one.model != "net02")
    problem = replace(problem, cluster=cluster, demands=demands)
    save(problem, Workspace(tmp_path).problem)
    save(plan(problem, mode="fast"), Workspace(tmp_path).plan)
    what = [str(tmp_path / "plan.json"), "--seconds", "1", "--load-factor", "0.3"]
    assert run(["simulate", *what]) == 0
    assert "2 entries: simulated as one scheduler of all workers" in capsys.readouterr().out
    assert run(["simulate", *what, "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)
    assert pair["cascade"] == "pair"


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


def test_no_option_is_passed_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", str(folder / "plan.json"), "--frame-spread", "0.3"]) == 1
    assert "--frame-spread 0.3: frames of cascades have the planned size" in capsys.readouterr().err


def test_the_plan_that_serves_most_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade_margin, "MARGINS", (0.3, 0.99))
    monkeypatch.setattr(cascade_margin, "SECONDS", 1.0)
    monkeypatch.setattr(cascade_margin, "ROUNDS", 1)
    monkeypatch.setattr(cascade_margin, "AT_ONCE", 3)
    problem = Workspace(folder).load_problem()
    chosen, made, tried = cascade_margin.best_of_cascades(problem, links="placed", processes=1)
    first, *better = tried
    assert dict(first.choice.margins) == {"net00": 0.3, "net01": 0.3, "net02": 0.3}
    assert all(one.choice.parts for one in better), "with 99 % of the SLO left unused there is no plan"
    scores = [one.score for one in tried]
    assert scores == sorted(scores)
    assert set(tried[-1].served_rps) == {"pair", "net02"}
    assert made is tried[-1].plan
    assert chosen == tried[-1].choice.problem(problem)
    assert made.problem_hash == content_hash(chosen)
    assert made.cascades[0].slo_us == 400_000 == sum(part.slo_us for part in made.cascades[0].parts)
    assert cascade_margin.cascade_margin_table(tried, made).row_count == len(tried)


def test_choices_divide_the_whole_slo_along_every_way() -> None:
    """A tree: what feeds two has one part, and both have what it leaves."""
    problem = made_problem(MadeSize(gpus=4, classes=1, models=4, blocks=1, max_slices=1), 1)
    few = Fanout(2.0, 1.0, 5)
    members = (
        Member("net00"),
        Member("net01", "net00", few, "crops"),
        Member("net02", "net01", few, "crops"),
        Member("net03", "net00", few, "crops"),
    )
    problem = replace(problem, cascades=(Cascade("tree", 100_000, members, weight=1.0),))
    parts = {"net00": 30_000, "net01": 30_000, "net02": 40_000, "net03": 70_000}
    choice, rng, seen = cascade_choice.alike(problem, 0.2), random.Random(1), set()
    for _ in range(200):
        choice = cascade_choice.another(problem, choice, parts, {"net00": 90.0}, rng)
        parts = dict(choice.parts)
        assert min(parts.values()) > 0
        assert parts["net00"] + parts["net01"] + parts["net02"] == 100_000
        assert parts["net00"] + parts["net03"] == 100_000
        assert {margin for _, margin in choice.margins} <= {0.2, *cascade_choice.MARGINS}
        assert {by for _, by in choice.headroom} <= set(cascade_choice.HEADROOM)
        assert choice.problem(problem).demands[0].batch_build_rps == 90.0
        seen.add(choice)
    assert len(seen) > 150


def test_where_all_rates_are_served_the_cheapest_plan_is_the_best(folder: Path) -> None:
    problem = Workspace(folder).load_problem()
    problem = replace(problem, options=replace(problem.options, objective=Objective.MIN_COST))
    made = Workspace(folder).load_plan()
    enough = cascade_margin.Tried(cascade_choice.alike(problem, 0.3), made, {"pair": 9.0}, 1.2)
    dearer = replace(enough, plan=replace(made, objective=made.objective + 1), score=1.5)
    short = replace(enough, plan=replace(made, objective=made.objective - 1), score=0.9)
    cheaper = replace(short, score=1.0)
    better = [cascade_margin.is_better(problem, one, enough) for one in (enough, dearer, short, cheaper)]
    assert better == [False, False, False, True]
    assert cascade_margin.is_better(problem, enough, short)


def test_a_load_that_is_served_is_found_though_it_lies_between_the_steps(folder: Path) -> None:
    """Each plan's steps are shares of its own rate: a plan must not seem to serve less than was just seen."""
    problem, made = Workspace(folder).load_problem(), Workspace(folder).load_plan()
    workload = Workload(seconds=2.0, seeds=(1,))
    (fine,) = cascade_capacities(made, problem, workload, "placed", 0.01).values()
    seen = {"pair": 0.98 * fine}
    assert serve_enough(made, problem, seen | {"net02": 0.1}, workload, "placed")
    (coarse,) = cascade_capacities(made, problem, workload, "placed", 0.5, seen).values()
    assert coarse >= seen["pair"]


def test_other_models_must_serve_enough_too(folder: Path) -> None:
    problem, made = Workspace(folder).load_problem(), Workspace(folder).load_plan()
    workload = Workload(seconds=2.0, seeds=(1,))
    much = 2 * made.model("net02").throughput_rps
    assert not serve_enough(made, problem, {"pair": 0.1, "net02": much}, workload, "placed")


def test_a_member_with_headroom_has_workers_for_more_frames_than_come(folder: Path) -> None:
    problem = Workspace(folder).load_problem()
    choice = cascade_choice.alike(problem, 0.3)
    roomy = replace(choice, headroom=(("net01", 1.2),)).problem(problem)
    parts = {"net00": 200_000, "net01": 200_000}
    plain, inner = (divided(one, parts).demands for one in (choice.problem(problem), roomy))
    assert [one.weight for one in inner] == [1.0, 1.2 * 2.0, 1.0]
    assert [one.flow for one in inner] == [one.flow for one in plain], "no more frames come for that"
    made = plan(roomy, mode="fast", parts=parts)
    (pair,) = made.cascades
    assert made.model("net01").throughput_rps >= 1.19 * 2.0 * made.objective
    assert pair.parts[1].frames == 2.0


def test_the_same_plan_proven_keeps_its_proof(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade_margin, "MARGINS", (0.3,))
    monkeypatch.setattr(cascade_margin, "SECONDS", 1.0)
    monkeypatch.setattr(cascade_margin, "ROUNDS", 0)
    monkeypatch.setattr(cascade_margin, "LEAST_ROUNDS", 0)
    seen: list[str] = []

    def planned(problem: Problem, mode: str, parts: dict[str, int] | None) -> Plan:
        seen.append(mode)
        made = plan(problem, mode="fast", parts=parts or {"net00": 200_000, "net01": 200_000})
        return replace(made, gap=0.125 if mode == "fast" else 0.0)

    monkeypatch.setattr(cascade_margin, "plan", planned)
    problem = Workspace(folder).load_problem()
    _, made, tried = cascade_margin.best_of_cascades(problem, links="placed", processes=1)
    assert seen == ["fast", "proven"]
    assert made.gap == 0.0
    assert tried[-1].plan is made, "which the table marks"
