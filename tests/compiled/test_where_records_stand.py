"""Records stand in compiled modules alone: no uncompiled class can inherit from a compiled record."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from python_backend.compiled.modules import COMPILED_MODULES

ROOT = Path(__file__).parents[2]


def records_of(source: str) -> Iterator[str]:
    """Classes that are declared as records, or inherit from Record."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            named = [ast.unparse(each) for each in (*node.decorator_list, *node.bases)]
            if any(name.rpartition(".")[2] in ("record", "Record") for name in named):
                yield node.name


def test_records_stand_in_compiled_modules() -> None:
    strays = [
        f"{module}.{name}"
        for path in sorted((ROOT / "python_backend").rglob("*.py"))
        if (module := ".".join(path.relative_to(ROOT).with_suffix("").parts)) not in COMPILED_MODULES
        for name in records_of(path.read_text(encoding="utf-8"))
    ]
    assert strays == []


def test_records_are_found() -> None:
    assert list(records_of("@record\nclass A: pass\nclass B(Record): pass\nclass C: pass")) == ["A", "B"]
