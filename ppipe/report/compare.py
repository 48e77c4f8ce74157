"""Two tables of a kind as one, with what differs marked: two plans, two runs, two repositories.

Rules
- Rows belong together when their key columns say the same; the other columns stand twice, side by side.
- A number that changed says by how much; a row that only one side has is marked as added or removed.
- Tables without any difference are left out; the page says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ppipe.report.content import Cell, Subject, Table

ALIKE = 1e-9
"""Relative difference below which two numbers are one."""
EMPTY = Cell("")


def differences(first: Subject, second: Subject) -> list[Table]:
    """The merged tables of all sections that both have."""
    others = {(section.kind, one.title): one for section in second.sections for one in section.tables}
    found = []
    for section in first.sections:
        for one in section.tables:
            if (other := others.get((section.kind, one.title))) is not None:
                merged = merge(one, other, (first.label, second.label))
                if merged is not None:
                    found.append(merged)
    return found


def merge(first: Table, second: Table, labels: tuple[str, str]) -> Table | None:
    """Rows that differ, with both sides' cells; None where none does."""
    keys = first.keys
    values = list(dict.fromkeys([*first.columns[keys:], *second.columns[keys:]]))
    left, right = _by_key(first), _by_key(second)
    rows = []
    same = 0
    for key in dict.fromkeys([*left, *right]):
        pairs = list(_pairs(left.get(key), right.get(key), first, second, values))
        if all(not cell.mark for cell in pairs):
            same += 1
            continue
        names = (left.get(key) or right[key])[:keys]
        rows.append((*names, *pairs))
    if not rows:
        return None
    columns = (*first.columns[:keys], *(f"{value}: {side}" for value in values for side in ("A", "B")))
    note = f"A: {labels[0]}. B: {labels[1]}. {same} rows are alike."
    return Table(first.title, columns, tuple(rows), keys, note)


def _by_key(one: Table) -> dict[tuple[str, ...], tuple[Cell, ...]]:
    """Rows of equal keys are told apart by their order."""
    found: dict[tuple[str, ...], tuple[Cell, ...]] = {}
    for row in one.rows:
        key = tuple(cell.text for cell in row[: one.keys])
        number = 0
        while (*key, str(number)) in found:
            number += 1
        found[(*key, str(number))] = row
    return found


def _pairs(
    left: Sequence[Cell] | None, right: Sequence[Cell] | None, first: Table, second: Table, values: list[str]
) -> Iterator[Cell]:
    for value in values:
        a = _cell(left, first, value)
        b = _cell(right, second, value)
        if left is None or right is None:
            yield Cell(a.text, a.value, a.hint, mark="removed" if right is None else "")
            yield Cell(b.text, b.value, b.hint, mark="added" if left is None else "")
        elif _alike(a, b):
            yield Cell(a.text, a.value, a.hint)
            yield Cell(b.text, b.value, b.hint)
        else:
            yield Cell(a.text, a.value, a.hint, mark="changed")
            yield Cell(b.text + _change(a, b), b.value, b.hint, mark="changed")


def _cell(row: Sequence[Cell] | None, of: Table, column: str) -> Cell:
    if row is None or column not in of.columns[of.keys :]:
        return EMPTY
    return row[of.columns.index(column, of.keys)]


def _alike(a: Cell, b: Cell) -> bool:
    if a.value is None or b.value is None:
        return a.text == b.text
    return abs(a.value - b.value) <= ALIKE * max(abs(a.value), abs(b.value)) and a.text == b.text


def _change(a: Cell, b: Cell) -> str:
    if a.value is None or b.value is None or not a.value:
        return ""
    return f" ({(b.value - a.value) / abs(a.value):+.1%})"
