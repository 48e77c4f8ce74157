"""Reads a file of arrival times as people have them, or says with file and line why it is none.

Rules
- One row is one arrival. Tables of counts, running numbers and rows without a known time column are refused:
  read as arrivals they would be a steady stream, and a simulation of it would look very good.
- Times are numbers of any unit (the trace is scaled to the wanted rate anyway), or dates as in ISO 8601.
- Text is UTF-8 or UTF-16, with or without a byte order mark; columns are separated by ',', ';' or tabs; lines
  that are blank or begin with '#' are skipped; rows need not be in order.
"""

from __future__ import annotations

import csv
import datetime
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from python_backend.simulator.errors import ArrivalError

TIME_COLUMNS = ("timestamp", "arrival_time", "arrival_timestamp", "start_timestamp", "arrived_at", "time")
"""Names of a column of arrival times, the first that is there; case and spaces do not matter."""
COUNT_COLUMNS = (
    "count",
    "counts",
    "requests",
    "invocations",
    "arrivals",
    "rps",
    "qps",
    "rate",
    "num_requests",
)
_SEPARATORS = ",;\t"
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_DATE = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(\.\d+)?\s*(Z|UTC|[+-]\d{2}:?\d{2})?", re.IGNORECASE
)
_LEAST_COUNT_COLUMNS = 5
"""Columns whose names are whole numbers in a row: a table of counts per minute or so."""


@dataclass(frozen=True)
class _Row:
    line: int
    cells: tuple[str, ...]


def read_trace(path: Path) -> Any:
    """Arrival times in the file's own unit (seconds since 1970 for dates), ascending. At least two.

    Columns: one of TIME_COLUMNS; or `end_timestamp` and `duration` (Azure Functions 2021: an invocation
    starts at end - duration); or no header and one value a line. Raises ArrivalError.
    """
    rows, separator = _rows(path)
    if not rows:
        raise ArrivalError(f"{path}: no rows; a trace needs at least two arrival times")
    decimal_comma = separator != ","
    header = [cell.strip().strip('"').lower().replace(" ", "_") for cell in rows[0].cells]
    if any(_number(cell, decimal_comma) is None for cell in rows[0].cells):
        times = _with_header(path, header, rows[1:], decimal_comma)
    elif len(rows[0].cells) > 1:
        raise _no_header(path, rows[0].line)
    else:
        times = [_time(path, row, 0, decimal_comma) for row in rows]
    return _checked(path, times)


def _rows(path: Path) -> tuple[list[_Row], str]:
    """Rows with their line numbers, and what separates their cells."""
    text = _text(path)
    lines = text.splitlines()
    begun = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if begun and begun[0].lstrip()[:1] in ("{", "["):
        raise ArrivalError(f"{path}: JSON; wanted a CSV file with one arrival per row")
    separator = max(_SEPARATORS, key=lambda each: begun[0].count(each)) if begun else ","
    reader = csv.reader(lines, delimiter=separator)
    try:
        rows = [
            _Row(reader.line_num, tuple(cell.strip() for cell in cells))
            for cells in reader
            if any(cell.strip() for cell in cells) and not cells[0].lstrip().startswith("#")
        ]
    except csv.Error as error:
        raise ArrivalError(f"{path}: line {reader.line_num}: {error}; wanted a CSV file") from error
    return rows, separator


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArrivalError(f"{path}: {error.strerror or error}") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ArrivalError(f"{path}: line {line}: no text in UTF-8 or UTF-16; wanted a CSV file") from error


def _with_header(path: Path, header: Sequence[str], rows: Sequence[_Row], comma: bool) -> list[Fraction]:
    numbered = sum(name.isdigit() for name in header)
    counts = [name for name in header if name in COUNT_COLUMNS]
    if numbered >= _LEAST_COUNT_COLUMNS:
        raise ArrivalError(
            f"{path}: line 1: a table of counts ({numbered} columns are numbered intervals); "
            "wanted one row per arrival"
        )
    if counts:
        raise ArrivalError(
            f"{path}: line 1: a table of counts (column {counts[0]!r}); wanted one row per arrival"
        )
    if "end_timestamp" in header and "duration" in header:
        end, duration = header.index("end_timestamp"), header.index("duration")
        return [_time(path, row, end, comma) - _time(path, row, duration, comma) for row in rows]
    column = next((header.index(name) for name in TIME_COLUMNS if name in header), None)
    if column is None and any(_number(cell, comma) is not None for cell in header):
        raise _no_header(path, 1)
    if column is None:
        raise ArrivalError(
            f"{path}: line 1: no column of arrival times; there are {', '.join(header)}; name one "
            f"{TIME_COLUMNS[0]!r}"
        )
    return [_time(path, row, column, comma) for row in rows]


def _no_header(path: Path, line: int) -> ArrivalError:
    return ArrivalError(
        f"{path}: line {line}: several columns and no header, so none is known to be the time; "
        f"name it {TIME_COLUMNS[0]!r} in a first line"
    )


def _time(path: Path, row: _Row, column: int, decimal_comma: bool) -> Fraction:
    cell = row.cells[column] if column < len(row.cells) else ""
    found = _number(cell, decimal_comma)
    if found is None:
        wanted = "a number, or a date such as 2023-11-16 18:17:03.98"
        raise ArrivalError(f"{path}: line {row.line}: {cell!r} is no time; wanted {wanted}")
    return found


def _number(cell: str, decimal_comma: bool) -> Fraction | None:
    """A time, exactly: whole nanoseconds since 1970 have more digits than a float."""
    if (date := _DATE.fullmatch(cell)) is not None:
        return _date(*date.groups())
    text = cell.replace(",", ".") if decimal_comma and cell.count(",") == 1 else cell
    try:
        return Fraction(text) if math.isfinite(float(text)) else None
    except (ValueError, OverflowError):
        return None


def _date(day: str, time: str, fraction: str | None, zone: str | None) -> Fraction | None:
    """Seconds since 1970; dates without a zone are taken as UTC."""
    offset = "+00:00" if zone is None or zone.upper() in ("Z", "UTC") else zone
    try:
        whole = datetime.datetime.fromisoformat(f"{day}T{time}{offset}")
    except ValueError:
        return None
    return Fraction(int(whole.timestamp())) + Fraction(f"0{fraction}" if fraction else 0)


def _checked(path: Path, times: Sequence[Fraction]) -> Any:
    if len(times) < 2:
        raise ArrivalError(f"{path}: {len(times)} arrival time; a trace needs at least two")
    ordered = sorted(times)
    gaps = {after - before for before, after in itertools.pairwise(ordered)}
    if len(ordered) > 2 and gaps == {Fraction(1)}:
        raise ArrivalError(
            f"{path}: its times count up by 1: a running number or a table of intervals, not arrivals; "
            "frames at equal distances are --arrivals cameras:fps=..."
        )
    return np.array([float(time) for time in ordered])
