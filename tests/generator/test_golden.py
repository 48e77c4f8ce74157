"""What is rendered is, byte for byte, what was read and agreed on."""

import pytest

from tests.golden.cases import CASES, expected


@pytest.mark.parametrize("name", CASES)
def test_a_case_renders_to_its_golden_folder(name: str) -> None:
    rendered = dict(CASES[name]())
    golden = expected(name)
    assert sorted(rendered) == sorted(golden)
    for path, text in rendered.items():
        assert text == golden[path], f"{name}/{path}; meant? .venv/bin/python -m tests.golden.cases"
