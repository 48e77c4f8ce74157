"""Whose margins are searched unasked, and what a searched plan remembers of what was asked."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.pictures import made_model
from planner import serial
from planner.deployment import DeploymentError, load_deployment, parse_deployment
from planner.deployment.asked import answers, asked_hash
from planner.plan import Plan, Promise
from planner.planning import plan
from planner.problem import Objective, Problem
from planner.profile import Profile
from ppipe import regenerate
from ppipe.cli import run
from ppipe.simulation import margin, rungs, searched
from ppipe.simulation.judging import ENOUGH_FRAMES, long_enough_s
from ppipe.simulation.searched import short_of, why_not_searched
from ppipe.workspace import Workspace, save
from tests.kubernetes.conftest import PORTS, deployment_data, model_profile


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is or not: what is simulated here is short."""
    monkeypatch.setattr(searched, "IS_COMPILED", True)


@pytest.fixture
def data() -> dict[str, Any]:
    """One model on one server of two emulated GPUs."""
    data = copy.deepcopy(deployment_data())
    data["cluster"]["gpu_classes"] = [data["cluster"]["gpu_classes"][2]]
    data["cluster"]["groups"] = [data["cluster"]["groups"][2]]
    data["models"] = data["models"][:1]
    return data


def reason(data: dict[str, Any], **changes: Any) -> str:
    deployment = parse_deployment(data | changes, "test")
    return why_not_searched(deployment, deployment.to_problem(Profile((model_profile("cars"),))))


def test_a_small_fleet_is_searched_unless_it_states_a_margin(data: dict[str, Any]) -> None:
    assert reason(data) == ""
    assert reason(data, planner={"slo_margin": "auto"}) == ""
    assert reason(data, planner={"slo_margin": 0}) == "the deployment states slo_margin 0.0"
    data["models"][0]["slo_margin"] = 0.3
    assert reason(data) == "the deployment states slo_margin 0.3"


def test_plain_python_searches_only_where_that_is_asked_for(
    data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searched, "IS_COMPILED", False)
    assert "plain Python" in reason(data)
    assert reason(data, planner={"slo_margin": "auto"}) == ""


def test_a_large_fleet_is_searched_only_where_that_is_asked_for(data: dict[str, Any]) -> None:
    data["cluster"]["groups"][0]["servers"] = [
        {"name": f"fake-{n}", "host": f"street-fake-{n}", **PORTS} for n in range(121)
    ]
    assert reason(data) == "more than 120 GPUs take long"
    assert reason(data, planner={"slo_margin": "auto"}) == ""


@pytest.mark.parametrize("stated", [1, -0.1, "most", True, [0.4]])
def test_a_margin_that_is_none_is_one_line(data: dict[str, Any], stated: Any) -> None:
    with pytest.raises(
        DeploymentError, match=r"planner\.slo_margin.*expected a share from 0 to below 1, or auto"
    ):
        parse_deployment(data | {"planner": {"slo_margin": stated}}, "test")


def test_margins_are_searched_or_stated_not_both(data: dict[str, Any]) -> None:
    data["models"][0]["slo_margin"] = 0.3
    with pytest.raises(
        DeploymentError, match=r"models\.cars\.slo_margin: 0\.3, but planner\.slo_margin is auto"
    ):
        parse_deployment(data | {"planner": {"slo_margin": "auto"}}, "test")


def test_a_searched_plan_is_of_the_problem_that_was_asked(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rungs, "FIRST", ((1, 6),))
    monkeypatch.setattr(rungs, "FIRST_IF_WRONG", ((1, 2),))
    monkeypatch.setattr(rungs, "MOST_CANDIDATES", 1)
    monkeypatch.setattr(margin, "SECONDS", 0.5)
    monkeypatch.setattr(margin, "PROMISED_IN", 8)
    monkeypatch.setattr(margin, "PROMISED_SECONDS", 0.5)
    file, workspace = tmp_path / "deployment.yaml", Workspace(tmp_path)
    file.write_text(yaml.safe_dump(data))
    profile = Profile((model_profile("cars"),))
    save(profile, workspace.profile)
    assert run(["plan", str(file), "--work", str(tmp_path)]) == 0
    made = workspace.load_plan()
    deployment = load_deployment(file)
    asked = asked_hash(deployment, deployment.to_problem(profile))
    assert made.models[0].promise is not None
    assert made.problem_hash == serial.content_hash(serial.load(Problem, workspace.problem)) != asked
    assert made.asked_for == asked
    assert regenerate.current_plan(load_deployment(file), profile, workspace) == made, "and is kept"
    monkeypatch.setattr(searched, "IS_COMPILED", False)
    save(replace(made, asked_hash="of another"), workspace.plan)
    assert regenerate.current_plan(load_deployment(file), profile, workspace) == made, "and searched again"
    capsys.readouterr()
    assert run(["generate", str(file), "--work", str(tmp_path)]) == 0
    assert "note: " not in capsys.readouterr().err, "nothing has changed since it was made"
    data["models"][0]["weight"] = 2.0
    file.write_text(yaml.safe_dump(data))
    assert run(["generate", str(file), "--work", str(tmp_path)]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "note: " in line]
    assert len(notes) == 1, notes
    assert "weight" in notes[0], "and nothing that the search has set"


def test_a_plan_for_a_stated_problem_answers_it_with_and_without_its_hash(
    data: dict[str, Any], tmp_path: Path
) -> None:
    file, workspace = tmp_path / "deployment.yaml", Workspace(tmp_path)
    file.write_text(yaml.safe_dump(data | {"planner": {"slo_margin": 0.4}}))
    save(Profile((model_profile("cars"),)), workspace.profile)
    assert run(["plan", str(file), "--work", str(tmp_path)]) == 0
    deployment, made = load_deployment(file), serial.load(Plan, workspace.plan)
    problem = deployment.to_problem(workspace.load_profile())
    assert made.asked_hash == asked_hash(deployment, problem)
    without = replace(made, asked_hash="")
    assert without.asked_for == made.problem_hash
    assert answers(made, deployment, problem)
    assert answers(without, deployment, problem)


def test_an_open_margin_and_a_stated_one_are_asked_for_apart(data: dict[str, Any]) -> None:
    profile = Profile((model_profile("cars"),))
    files = [data | {"planner": planner} for planner in ({}, {"slo_margin": "auto"}, {"slo_margin": 0.4})]
    read = [parse_deployment(file, "test") for file in files]
    nothing, searched, stated = (asked_hash(one, one.to_problem(profile)) for one in read)
    assert nothing == searched != stated


def test_what_a_plan_does_not_depend_on_asks_for_no_other(data: dict[str, Any]) -> None:
    profile = Profile((model_profile("cars"),))

    def asked(changed: dict[str, Any]) -> str:
        deployment = parse_deployment(changed, "test")
        return asked_hash(deployment, deployment.to_problem(profile))

    moved, wider = copy.deepcopy(data), copy.deepcopy(data)
    group = moved["cluster"]["groups"][0]
    group["servers"][0] |= {"host": "10.9.8.7", "http_port": 9123}
    moved["cluster"]["entry"]["feedback_port"] = 9321
    moved["models"][0]["streams"] = {"order": "stream"}
    wider["cluster"]["groups"][0]["bandwidth_gbps"] = 3.5
    assert asked(moved) == asked(data) != asked(wider)


def test_min_cost_says_what_it_does_not_guarantee(data: dict[str, Any]) -> None:
    data["models"][0]["rate_rps"] = 10.0
    cheap = parse_deployment(data | {"planner": {"objective": "min-cost"}}, "test")
    problem = cheap.to_problem(Profile((model_profile("cars"),)))
    made = plan(problem, mode="fast")

    def promising(rps: float) -> Plan:
        return replace(made, models=(replace(made.models[0], promise=Promise(rps, 20.0, 20.0, 0.9)),))

    (line,) = short_of(promising(6.5), problem)
    assert line.startswith("cars: this plan guarantees 6.5 frames/s, and 10 are wanted")
    assert not [*short_of(promising(10.0), problem)]
    assert not [*short_of(made, problem)], "nothing is promised"
    most = replace(problem, options=replace(problem.options, objective=Objective.MAX_RATE))
    assert not [*short_of(promising(6.5), most)]


def test_fast_models_are_simulated_for_as_many_frames_not_as_long() -> None:
    served = made_model()
    assert served.planned_rps > 0
    assert long_enough_s(served, 1.0, 8.0) == min(8.0, ENOUGH_FRAMES / served.planned_rps)
    assert long_enough_s(served, 1.0, 1e6) == pytest.approx(ENOUGH_FRAMES / served.planned_rps)
    assert long_enough_s(served, 4.0, 1e6) == pytest.approx(2 * ENOUGH_FRAMES / served.planned_rps)
