"""The linter and a real tritonserver agree on the whole battery: on refusals, hangs and crashes."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_repo_generator.lint import Context, Effect, Host, lint
from tests.lint.battery import DIES_CASES, HANGS_CASES, LOADED_CASES, Case, Outcome
from tests.lint.battery.server import asked_server

pytestmark = pytest.mark.live

THIS_SERVER = Context(
    host=Host(gpus=0, backends=frozenset({"python"}), agents=frozenset(), same_machine=True)
)
"""The server of the tests: no GPU, the Python backend alone."""
ASKED_AT_ONCE = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("battery")


@pytest.fixture(scope="module")
def repositories(root: Path) -> dict[str, Path]:
    return {case.name: case.write(root) for case in (*LOADED_CASES, *HANGS_CASES, *DIES_CASES)}


@pytest.fixture(scope="module")
def refusals(root: Path, repositories: dict[str, Path]) -> dict[str, str | None]:
    """What one server says of each model, by case; None where it loads it."""
    served = [repositories[case.name] for case in LOADED_CASES]
    with asked_server(served, root / "server.log") as asked, ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        said = pool.map(asked.refusal, [case.model for case in LOADED_CASES])
        return dict(zip([case.name for case in LOADED_CASES], said, strict=True))


def named(case: Case) -> str:
    return case.name


def test_battery_is_large_and_its_names_differ() -> None:
    names = [case.name for case in (*LOADED_CASES, *HANGS_CASES, *DIES_CASES)]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", LOADED_CASES, ids=named)
def test_refused_by_both_or_loaded(
    case: Case, refusals: dict[str, str | None], repositories: dict[str, Path]
) -> None:
    refusal = refusals[case.name]
    assert (refusal is None) == (case.outcome is Outcome.ACCEPTED), refusal
    found = lint_findings(case, repositories)
    if case.outcome is Outcome.ACCEPTED:
        assert set(found) == set(case.codes), "nothing else may be found of a model that is loaded"
        assert all(effect.loads for effect in found.values())
    else:
        assert set(case.codes) <= set(found)
        assert Effect.REFUSED in found.values()


COMPLETED: dict[str, list[str]] = {
    "config_missing": ["config-completed"],
    "config_empty": [],
    "inputs_none": [],
    "type_absent": ["data-type"],
    "preferred_large": ["preferred-batch"],
    "model_py_syntax": ["model-code"],
}
"""What is found where the server completes configurations, as it does unless told not to."""


def test_agrees_with_a_completing_server(root: Path, repositories: dict[str, Path]) -> None:
    host = dataclasses.replace(THIS_SERVER.host, auto_complete=True)
    served = {name: repositories[name] for name in COMPLETED}
    with asked_server(served.values(), root / "completing.log", complete=True) as asked:
        refused = {name: asked.refusal(name) is not None for name in served}
    for name, repository in served.items():
        findings = lint(repository, context=Context(host=host))
        assert [finding.code for finding in findings] == COMPLETED[name]
        assert refused[name] == any(not finding.effect.loads for finding in findings)


def test_hanging_loads_are_found(root: Path, repositories: dict[str, Path]) -> None:
    served = [repositories[case.name] for case in HANGS_CASES]
    with asked_server(served, root / "hanging.log") as asked, ThreadPoolExecutor(len(HANGS_CASES)) as pool:
        hangs = list(pool.map(asked.hangs_on, [case.model for case in HANGS_CASES]))
    assert hangs == [True] * len(HANGS_CASES)
    for case in HANGS_CASES:
        found = lint_findings(case, repositories)
        assert set(case.codes) <= set(found)
        assert Effect.HANGS in found.values(), case.name


@pytest.mark.parametrize("case", DIES_CASES, ids=named)
def test_deadly_models_are_found(case: Case, root: Path, repositories: dict[str, Path]) -> None:
    with asked_server([repositories[case.name]], root / f"{case.name}.log") as asked:
        refused, died = asked.refuses_or_dies(case.model)
    assert died or (refused and case.outcome is Outcome.DIES_OR_REFUSED)
    found = lint_findings(case, repositories)
    assert set(case.codes) <= set(found)
    assert Effect.DIES in found.values()


def lint_findings(case: Case, repositories: dict[str, Path]) -> dict[str, Effect]:
    """Code and effect of what the linter finds of the model that the server is asked for."""
    findings = lint(repositories[case.name], context=THIS_SERVER)
    return {finding.code: finding.effect for finding in findings if finding.model == case.model}
