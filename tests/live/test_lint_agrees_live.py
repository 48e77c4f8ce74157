"""The linter and a real tritonserver agree on the whole battery: on refusals, hangs and crashes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from model_repo_generator.lint import Context, Effect, Host, lint
from tests.lint.battery import COMPLETED_CASES, DIES_CASES, HANGS_CASES, LOADED_CASES, Case, Outcome
from tests.lint.battery.roots import ROOT_CASES, RootCase
from tests.lint.battery.server import asked_server, loads_everything, place_python_library

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

THIS_SERVER = Context(
    host=Host(gpus=0, backends=frozenset({"python"}), agents=frozenset(), same_machine=True)
)
"""The server of the tests: no GPU, the Python backend alone."""
COMPLETING_SERVER = dataclasses.replace(
    THIS_SERVER, host=dataclasses.replace(THIS_SERVER.host, auto_complete=True)
)
ASKED_AT_ONCE = 4
ROUNDS = 3
"""A server of many models may end by a race of its own: those that got no answer are asked on another one."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("battery")


@pytest.fixture(scope="module")
def repositories(root: Path) -> dict[str, Path]:
    cases = (*LOADED_CASES, *HANGS_CASES, *DIES_CASES, *COMPLETED_CASES)
    written = {case.name: case.write(root) for case in cases}
    for case in cases:
        if case.library:
            place_python_library(written[case.name] / case.library.replace("@", case.name))
    return written


@pytest.fixture(scope="module")
def refusals(root: Path, repositories: dict[str, Path]) -> dict[str, str | None]:
    """What one server says of each model, by case; None where it loads it."""
    return ask(LOADED_CASES, repositories, root / "server.log", complete=False)


@pytest.fixture(scope="module")
def completing_refusals(root: Path, repositories: dict[str, Path]) -> dict[str, str | None]:
    """The same of a server that completes configurations."""
    return ask(COMPLETED_CASES, repositories, root / "completing.log", complete=True)


def ask(
    cases: tuple[Case, ...], repositories: dict[str, Path], log: Path, *, complete: bool
) -> dict[str, str | None]:
    """Those that may end a server are asked on servers of their own, side by side: each takes a second or
    two, in which the server waits.
    """
    together = [case for case in cases if not case.deadly_by_chance]
    by_chance = [case for case in cases if case.deadly_by_chance]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        apart = [
            pool.submit(ask_until_answered, lot, repositories, log.with_suffix(f".chance{number}.log"))
            for number in range(ASKED_AT_ONCE)
            if (lot := by_chance[number::ASKED_AT_ONCE])
        ]
        refusals: dict[str, str | None] = {}
        for number in range(ROUNDS):
            if waiting := [case for case in together if case.name not in refusals]:
                round_log = log.with_suffix(f".round{number}.log")
                refusals |= ask_at_once(waiting, repositories, round_log, complete=complete)
        for answers in apart:
            refusals |= answers.result()
    waiting = [case for case in together if case.name not in refusals]
    return refusals | ask_until_answered(waiting, repositories, log, complete=complete)


def ask_at_once(
    cases: list[Case], repositories: dict[str, Path], log: Path, *, complete: bool
) -> dict[str, str | None]:
    """All on one server; those are not there that it ended before."""
    served = [repositories[case.name] for case in cases]
    refusals: dict[str, str | None] = {}

    def ask_one(case: Case) -> None:
        with contextlib.suppress(InferenceServerException):
            refusals[case.name] = asked.refusal(case.model)

    with (
        asked_server(served, log, complete=complete) as asked,
        ThreadPoolExecutor(ASKED_AT_ONCE) as pool,
    ):
        list(pool.map(ask_one, cases))
    return refusals


def ask_until_answered(
    cases: list[Case], repositories: dict[str, Path], log: Path, *, complete: bool = False
) -> dict[str, str | None]:
    """One by one, on a new server whenever one has ended; models that ended three are refused, too."""
    refusals: dict[str, str | None] = {}
    tries: Counter[str] = Counter()
    while waiting := [case for case in cases if case.name not in refusals]:
        served = [repositories[case.name] for case in waiting]
        with asked_server(served, log, complete=complete) as asked:
            for case in waiting:
                tries[case.name] += 1
                try:
                    refusals[case.name] = asked.refusal(case.model)
                except InferenceServerException:
                    if tries[case.name] == 3:
                        refusals[case.name] = "the server ended"
                    break
    return refusals


def named(case: Case) -> str:
    return case.name


def test_battery_is_large_and_its_names_differ() -> None:
    cases = (*LOADED_CASES, *COMPLETED_CASES, *HANGS_CASES, *DIES_CASES, *ROOT_CASES)
    names = [case.name for case in cases]
    assert len(names) >= 320
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", LOADED_CASES, ids=named)
def test_refused_by_both_or_loaded(
    case: Case, refusals: dict[str, str | None], repositories: dict[str, Path]
) -> None:
    assert_agree(case, refusals[case.name], lint_findings(case, repositories))


@pytest.mark.parametrize("case", COMPLETED_CASES, ids=named)
def test_agrees_on_what_backends_complete(
    case: Case, completing_refusals: dict[str, str | None], repositories: dict[str, Path]
) -> None:
    found = lint_findings(case, repositories, COMPLETING_SERVER)
    assert_agree(case, completing_refusals[case.name], found)


def assert_agree(case: Case, refusal: str | None, found: dict[str, Effect]) -> None:
    assert (refusal is None) == (case.outcome is Outcome.ACCEPTED), refusal
    if case.outcome is Outcome.ACCEPTED:
        assert set(found) == set(case.codes), "nothing else may be found of a model that is loaded"
        assert all(effect.loads for effect in found.values())
    else:
        assert set(case.codes) <= set(found)
        assert Effect.REFUSED in found.values()


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Path], bool]]:
    """The repositories of each case, and whether a server that loads everything starts with them."""
    root = tmp_path_factory.mktemp("roots")
    written = {case.name: case.write(root) for case in ROOT_CASES}

    def starts(case: RootCase) -> bool:
        log = root / f"{case.name}.log"
        return loads_everything(written[case.name], log, namespacing=case.namespacing)

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        started = list(pool.map(starts, ROOT_CASES))
    return {case.name: (written[case.name], each) for case, each in zip(ROOT_CASES, started, strict=True)}


@pytest.mark.parametrize("case", ROOT_CASES, ids=lambda case: case.name)
def test_agrees_on_what_ends_a_server_that_loads_everything(
    case: RootCase, roots: dict[str, tuple[list[Path], bool]]
) -> None:
    repositories, starts = roots[case.name]
    host = dataclasses.replace(THIS_SERVER.host, namespacing=case.namespacing)
    found = lint(repositories, context=Context(host=host))
    assert starts == (not case.ends)
    assert all(finding.effect.loads for finding in found) == starts
    assert set(case.codes) <= {finding.code for finding in found}


COMPLETED: dict[str, list[str]] = {
    "config_missing": ["config-completed"],
    "config_empty": [],
    "inputs_none": [],
    "type_absent": ["data-type"],
    "preferred_large": ["preferred-batch"],
    "model_py_syntax": ["model-code"],
}
"""Of other cases, what is found where the server completes configurations."""


def test_agrees_with_a_completing_server(root: Path, repositories: dict[str, Path]) -> None:
    served = {name: repositories[name] for name in COMPLETED}
    with asked_server(served.values(), root / "completing_more.log", complete=True) as asked:
        refused = {name: asked.refusal(name) is not None for name in served}
    for name, repository in served.items():
        findings = lint(repository, context=COMPLETING_SERVER)
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


def lint_findings(
    case: Case, repositories: dict[str, Path], context: Context = THIS_SERVER
) -> dict[str, Effect]:
    """Code and effect of what the linter finds of the model that the server is asked for."""
    findings = lint(repositories[case.name], context=context)
    return {finding.code: finding.effect for finding in findings if finding.model == case.model}
