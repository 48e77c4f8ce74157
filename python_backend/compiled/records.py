"""Writes the records of a source (python_backend.scheduler.declare) out as native classes, for mypyc only.

A dataclass sets its fields one by one from interpreted code, even when it is compiled; a class with an
`__init__` of its own is made in a tenth of the time. Lines keep their numbers, so that tracebacks fit: the
class moves up to its decorator's line, and its new methods, one a line, take the place of docstring and
fields.
"""

from __future__ import annotations

import ast

_DECORATOR = "from python_backend.scheduler.declare import record"


def written_out(source: str) -> str:
    """The source with every `@record` class as a native class."""
    lines = source.split("\n")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and _is_record(node):
            first, last = node.lineno - 2, _head(node)[-1].end_lineno or 0
            written = [lines[node.lineno - 1], *_members(node)]
            lines[first:last] = written + [""] * (last - first - len(written))
    return "\n".join(lines).replace(_DECORATOR, "from typing import ClassVar, Final")


def _is_record(node: ast.ClassDef) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "record" for each in node.decorator_list)


def _head(node: ast.ClassDef) -> list[ast.stmt]:
    """Docstring and fields, which come first."""
    head = [node.body[0]]
    for statement in node.body[1:]:
        if not isinstance(statement, ast.AnnAssign):
            break
        head.append(statement)
    return head


def _members(node: ast.ClassDef) -> list[str]:
    """Of the native class, each on a line."""
    fields = [each for each in _head(node) if isinstance(each, ast.AnnAssign)]
    names = [ast.unparse(each.target) for each in fields]
    compared = "".join(
        f"self.{name}, " for name, each in zip(names, fields, strict=True) if _is_compared(each)
    )
    members = [
        f"    __match_args__: ClassVar[tuple[str, ...]] = ({''.join(f'{name!r}, ' for name in names)})",
        f"    def values(self) -> tuple[object, ...]: return ({compared})",
    ]
    if fields:
        parameters = ", ".join(
            f"{name}: {ast.unparse(each.annotation)}{_default(each)}"
            for name, each in zip(names, fields, strict=True)
        )
        body = "; ".join(f"self.{name}: Final = {name}" for name in names)
        members.append(f"    def __init__(self, {parameters}) -> None: {body}")
    return members


def _is_compared(field: ast.AnnAssign) -> bool:
    return not (
        isinstance(field.value, ast.Call)
        and any(each.arg == "compare" and ast.unparse(each.value) == "False" for each in field.value.keywords)
    )


def _default(field: ast.AnnAssign) -> str:
    """' = value', or '' without one."""
    value: ast.expr | None = field.value
    if isinstance(value, ast.Call):
        value = next((each.value for each in value.keywords if each.arg == "default"), None)
    return "" if value is None else f" = {ast.unparse(value)}"
