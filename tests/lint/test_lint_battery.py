"""The linter on the whole battery, without a server; test_lint_agrees_live asks one as well."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from model_repo_generator.lint import Context, Host, lint
from tests.lint.battery import COMPLETED_CASES, DIES_CASES, HANGS_CASES, LOADED_CASES, Case, Outcome
from tests.lint.battery.roots import ROOT_CASES, RootCase

ALL_CASES = (*LOADED_CASES, *HANGS_CASES, *DIES_CASES)
HOST = Host(gpus=0, backends=frozenset({"python"}), agents=frozenset(), same_machine=True)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_finds_what_the_server_would_do(case: Case, tmp_path: Path) -> None:
    assert_found(case, HOST, tmp_path)


@pytest.mark.parametrize("case", COMPLETED_CASES, ids=lambda case: case.name)
def test_finds_what_a_completing_server_would_do(case: Case, tmp_path: Path) -> None:
    assert_found(case, dataclasses.replace(HOST, auto_complete=True), tmp_path)


def assert_found(case: Case, host: Host, root: Path) -> None:
    findings = [
        each for each in lint(case.write(root), context=Context(host=host)) if each.model == case.model
    ]
    codes = {finding.code for finding in findings}
    assert set(case.codes) == codes if case.outcome is Outcome.ACCEPTED else set(case.codes) <= codes
    assert all(finding.effect.loads for finding in findings) == (case.outcome is Outcome.ACCEPTED)


@pytest.mark.parametrize("case", ROOT_CASES, ids=lambda case: case.name)
def test_finds_what_ends_a_server_that_loads_everything(case: RootCase, tmp_path: Path) -> None:
    host = dataclasses.replace(HOST, namespacing=case.namespacing)
    findings = lint(case.write(tmp_path), context=Context(host=host))
    assert set(case.codes) <= {finding.code for finding in findings}
    assert all(finding.effect.loads for finding in findings) == (not case.ends)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_lines_are_in_the_file(case: Case, tmp_path: Path) -> None:
    repository = case.write(tmp_path)
    for finding in lint(repository, context=Context(host=HOST)):
        path = repository / finding.file
        if finding.line:
            assert finding.line <= path.read_text(errors="replace").count("\n") + 1
        assert finding.message
