"""The linter on the whole battery, without a server; test_lint_agrees_live asks one as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_repo_generator.lint import Context, Host, lint
from tests.lint.battery import DIES_CASES, HANGS_CASES, LOADED_CASES, Case, Outcome

ALL_CASES = (*LOADED_CASES, *HANGS_CASES, *DIES_CASES)
HOST = Host(gpus=0, backends=frozenset({"python"}), agents=frozenset(), same_machine=True)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_finds_what_the_server_would_do(case: Case, tmp_path: Path) -> None:
    repository = case.write(tmp_path)
    findings = [each for each in lint(repository, context=Context(host=HOST)) if each.model == case.model]
    assert set(case.codes) <= {finding.code for finding in findings}
    assert all(finding.effect.loads for finding in findings) == (case.outcome is Outcome.ACCEPTED)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_lines_are_in_the_file(case: Case, tmp_path: Path) -> None:
    repository = case.write(tmp_path)
    for finding in lint(repository, context=Context(host=HOST)):
        path = repository / finding.file
        if finding.line:
            assert finding.line <= path.read_text(errors="replace").count("\n") + 1
        assert finding.message
