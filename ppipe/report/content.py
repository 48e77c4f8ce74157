"""What a page says, as plain data: sections of words, tables and pictures. No HTML here; `page` renders.

Rules
- A text is a text: whatever a deployment calls its models and servers, it is escaped where it is rendered.
- A table knows which of its columns identify a row, so that two tables of a kind can be compared.
- Pictures are shapes in user units, with the number that each shows as its hint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """`value`: what it is sorted and compared by, where the text is a number; `shade`: of a heat map, in
    [0, 1]; `mark`: 'changed', 'added', 'removed', 'estimated', or ''.
    """

    text: str
    value: float | None = None
    hint: str = ""
    shade: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """The first `keys` columns identify a row among its like."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    keys: int = 1
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} for {len(self.columns)} columns")


@dataclass(frozen=True)
class Rect:
    """`style`: a class of the style sheet, such as 'c0' for the first model's colour."""

    x: float
    y: float
    width: float
    height: float
    style: str
    hint: str = ""


@dataclass(frozen=True)
class Label:
    """A text; `anchor`: start, middle or end."""

    x: float
    y: float
    text: str
    style: str = ""
    anchor: str = "start"


@dataclass(frozen=True)
class Path:
    """`points`: SVG path data; `thick`: of its stroke, 0: as the style says."""

    points: str
    style: str
    hint: str = ""
    thick: float = 0.0


Shape = Rect | Label | Path


@dataclass(frozen=True)
class Picture:
    """`words`: what a reader who cannot see it is told."""

    title: str
    words: str
    width: float
    height: float
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page. `kind`: the same in every page, and what sections are compared by."""

    kind: str
    title: str
    words: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[int, ...] = ()
    """Gantt charts in it: places in Page.charts."""


@dataclass(frozen=True)
class Subject:
    """One thing that the page is about. `missing`: what was not found or not readable."""

    label: str
    sections: tuple[Section, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """The whole. `differences`: tables of two subjects side by side; `charts`: data of the Gantt charts."""

    title: str
    subjects: tuple[Subject, ...]
    differences: tuple[Table, ...] = ()
    charts: tuple[Mapping[str, object], ...] = field(default=())


def text(value: object, hint: str = "") -> Cell:
    """A cell of words."""
    return Cell(str(value), hint=hint)


def number(value: float | None, digits: int = 1, unit: str = "", hint: str = "") -> Cell:
    """A cell that is sorted as a number; without a value: a dash."""
    if value is None:
        return Cell("–")
    return Cell(f"{value:,.{digits}f}{unit}", value, hint)


def share(value: float | None, digits: int = 1) -> Cell:
    """A share as per cent."""
    return Cell("–") if value is None else Cell(f"{value:.{digits}%}", value)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], keys: int = 1, note: str = ""
) -> Table:
    """A table of any sequences."""
    return Table(title, tuple(columns), tuple(map(tuple, rows)), keys, note)
