"""Reads a file of arrival times as people have them, or says with file and line why it is none.

Rules
- One row is one arrival. Tables of counts, running numbers and rows without a known time column are refused:
  read as arrivals they would be a steady stream, and a simulation of it would look very good.
- Times are numbers of any unit (the trace is scaled to the wanted rate anyway), or dates as in ISO 8601. Rows
  need not be in order.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from python_backend.simulator.errors import ArrivalError
from python_backend.simulator.trace_rows import Rows, TraceRow, read_rows
from python_backend.simulator.trace_times import time_of

TIME_COLUMNS = ("timestamp", "arrival_time", "arrival_timestamp", "start_timestamp", "arrived_at", "time")
"""Names of a column of arrival times, the first that is there; case and spaces do not matter."""
_COUNT_COLUMN = re.compile(
    r"((num|number_of|n|total)_)?"
    r"(counts?|requests|invocations|arrivals|frames|hits|calls|rate|rps|qps)"
    r"([_/ ]?(per|in)[_ ]\w+|/\w+)?"
)
_LEAST_COUNT_COLUMNS = 5
"""Columns whose names are whole numbers in a row: a table of counts per minute or so."""
_MOST_RANDOM = 10
"""Fewer arrivals than this may lie on a grid, each in a place of its own, by chance."""


def read_trace(path: Path) -> Any:
    """Arrival times in the file's own unit (seconds since 1970 for dates), ascending. At least two.

    Columns: one of TIME_COLUMNS; or `end_timestamp` and `duration` (Azure Functions 2021: an invocation
    starts at end - duration); or no header and one value a line. Raises ArrivalError.
    """
    table = read_rows(path)
    if not table.rows:
        raise ArrivalError(f"{path}: no rows; a trace needs at least two arrival times")
    first = table.rows[0]
    if any(time_of(cell, table.decimal_comma) is None for cell in first.cells):
        header = [cell.strip('"').lower().replace(" ", "_") for cell in first.cells]
        times = _with_header(path, header, Rows(table.rows[1:], table.decimal_comma))
    elif len(first.cells) > 1:
        raise _no_header(path, first.line)
    else:
        times = [_time(path, row, 0, table.decimal_comma) for row in table.rows]
        _check_bare(path, times)
    return _checked(path, times, _has_numbers(table))


def _with_header(path: Path, header: Sequence[str], table: Rows) -> list[Decimal]:
    """Times of rows below a header."""
    comma = table.decimal_comma
    _check_header(path, header, comma)
    for row in table.rows:
        if any(row.cells[len(header) :]):
            said = f"{len(row.cells)} cells under {len(header)} names"
            raise ArrivalError(f"{path}: line {row.line}: {said}; numbers have no commas within")
    if "end_timestamp" in header and "duration" in header:
        end, duration = header.index("end_timestamp"), header.index("duration")
        return [_time(path, row, end, comma) - _time(path, row, duration, comma) for row in table.rows]
    column = header.index(next(name for name in TIME_COLUMNS if name in header))
    return [_time(path, row, column, comma) for row in table.rows]


def _check_header(path: Path, header: Sequence[str], decimal_comma: bool) -> None:
    """Raises ArrivalError unless it names arrival times and no counts."""
    wanted = "wanted one row per arrival"
    numbered = sum(name.isdigit() for name in header)
    if numbered >= _LEAST_COUNT_COLUMNS:
        said = f"a table of counts ({numbered} columns are numbered intervals)"
        raise ArrivalError(f"{path}: line 1: {said}; {wanted}")
    for name in header:
        if _COUNT_COLUMN.fullmatch(name):
            raise ArrivalError(f"{path}: line 1: a table of counts (column {name!r}); {wanted}")
    if {"end_timestamp", "duration"} <= set(header) or any(name in header for name in TIME_COLUMNS):
        return
    if any(time_of(name, decimal_comma) is not None for name in header):
        raise _no_header(path, 1)
    raise ArrivalError(
        f"{path}: line 1: no column of arrival times; there are {', '.join(header)}; name one "
        f"{TIME_COLUMNS[0]!r}"
    )


def _no_header(path: Path, line: int) -> ArrivalError:
    return ArrivalError(
        f"{path}: line {line}: several columns and no header, so none is known to be the time; "
        f"name it {TIME_COLUMNS[0]!r} in a first line"
    )


def _time(path: Path, row: TraceRow, column: int, decimal_comma: bool) -> Decimal:
    cell = row.cells[column] if column < len(row.cells) else ""
    found = time_of(cell, decimal_comma)
    if found is None:
        wanted = "a number, or a date such as 2023-11-16 18:17:03.98"
        raise ArrivalError(f"{path}: line {row.line}: {cell[:40]!r} is no time; wanted {wanted}")
    return found


def _check_bare(path: Path, times: Sequence[Decimal]) -> None:
    """A column of whole numbers that go up and down, with no name: counts, more likely than times."""
    in_order = all(before <= after for before, after in itertools.pairwise(times))
    if not in_order and all(time == time.to_integral_value() for time in times):
        raise ArrivalError(
            f"{path}: whole numbers that go up and down, and no header: counts of arrivals, or times out of "
            f"order; for times, name them {TIME_COLUMNS[0]!r} in a first line"
        )


def _has_numbers(table: Rows) -> bool:
    """Whether beside the time a row has numbers that may be counts."""
    cells = table.rows[-1].cells
    return sum(time_of(cell, table.decimal_comma) is not None for cell in cells) > 1


def _checked(path: Path, times: Sequence[Decimal], has_numbers: bool) -> Any:
    if len(times) < 2:
        raise ArrivalError(f"{path}: {len(times)} arrival time; a trace needs at least two")
    ordered = sorted(times)
    step = _grid(ordered)
    if step == 1:
        said = "its times count up by 1: a running number or a table of intervals, not arrivals"
    elif step is not None and has_numbers:
        said = f"a row every {step.normalize():f}, with numbers beside: a table of intervals, not arrivals"
    else:
        return np.array([float(time) for time in ordered])
    raise ArrivalError(f"{path}: {said}; frames at equal distances are --arrivals cameras:fps=...")


def _grid(ordered: Sequence[Decimal]) -> Decimal | None:
    """The step where all times lie on a grid, each equally often, and most of the grid is taken: intervals,
    of which those with nothing in them may be left out. Arrivals on so coarse a clock would meet by chance.
    """
    often = Counter(ordered)
    gaps = [after - before for before, after in itertools.pairwise(often)]
    if len(set(often.values())) > 1 or len(gaps) < 2:
        return None
    step = min(gaps)
    if all(gap == step for gap in gaps):
        return step
    mostly = 2 * sum(gap == step for gap in gaps) > len(gaps) >= _MOST_RANDOM
    return step if mostly and all(gap % step == 0 for gap in gaps) else None
