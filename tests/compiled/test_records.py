"""Records as they are compiled: native classes that are made, compared and shown as the dataclasses are."""

from __future__ import annotations

import ast
import inspect
import sys
import types
from dataclasses import FrozenInstanceError
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from python_backend.compiled import COMPILED_MODULES, IS_COMPILED
from python_backend.compiled.records import written_out
from python_backend.scheduler.events import RequestArrived, StageCompleted

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = '''
from dataclasses import field

from python_backend.scheduler.declare import record


@record
class Empty(Record):
    """Has no fields."""


@record
class One(Record):
    """Has one field."""

    name: str


@record
class Several(Record):
    """Has fields
    of every kind.
    """

    number: int
    names: tuple[str, ...] = ()
    seen: bool = field(default=False, compare=False)

    @property
    def twice(self) -> int:
        """Twice its number."""
        return 2 * self.number
'''


def module(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The source as a module, on the base as its source says it: compiled ones have no interpreted classes
    under them.
    """
    made = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    base = (ROOT / "python_backend/scheduler/record.py").read_text(encoding="utf-8")
    exec(compile(base, name, "exec"), made.__dict__)
    exec(compile("from __future__ import annotations\n" + source, name, "exec"), made.__dict__)
    return made


@pytest.fixture(name="both")
def both_fixture(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    return module("plain", SAMPLE, monkeypatch), module("native", written_out(SAMPLE), monkeypatch)


def test_written_out_records_behave_as_the_dataclasses(both: tuple[Any, Any]) -> None:
    made = []
    for records in both:
        several = records.Several(3, names=("a",), seen=True)
        same, other = records.Several(3, ("a",)), records.Several(4, ("a",))
        assert several == same
        assert hash(several) == hash(same)
        assert several != other
        assert several != records.One("a")
        assert records.Empty() == records.Empty()
        assert (several.seen, same.seen, several.twice) == (True, False, 6)
        made.append([
            repr(several), repr(records.Empty()), repr(records.One("x")), several.values(),
            [getattr(records, name).__match_args__ for name in ("Empty", "One", "Several")],
            list(inspect.signature(records.Several).parameters.values()),
        ])  # fmt: skip
    assert made[0] == made[1]


def test_lines_keep_their_numbers() -> None:
    written = written_out(SAMPLE)
    assert len(written.split("\n")) == len(SAMPLE.split("\n"))
    line = "    def twice(self) -> int:"
    assert written.split("\n").index(line) == SAMPLE.split("\n").index(line)


def test_every_record_of_a_compiled_module_is_written_out() -> None:
    found = 0
    for name in COMPILED_MODULES:
        source = (ROOT / (name.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        found += source.count("\n@record\n")
        written = written_out(source)
        assert "\n@record\n" not in written
        assert len(written.split("\n")) == len(source.split("\n"))
        for node in ast.parse(written).body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Record" for base in node.bases):
                kind = getattr(import_module(name), node.name)
                assert kind.__match_args__ == ast.literal_eval(
                    next(each.value for each in node.body if isinstance(each, ast.AnnAssign) and each.value)
                )
    assert found >= 15


def test_a_record_is_not_changed() -> None:
    arrived: Any = RequestArrived(1, 2)
    assert arrived == RequestArrived(1, 2, priority=0)
    assert repr(StageCompleted(1, 0, 2, 30)) == "StageCompleted(1, 0, 2, 30)"
    if not IS_COMPILED:
        with pytest.raises(FrozenInstanceError):
            arrived.deadline_us = 5
