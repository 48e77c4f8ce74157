"""A file of text to rows of cells, as spreadsheets, scripts and public data sets write it.

Rules
- Text is UTF-8 or UTF-16, with or without a byte order mark. Columns are separated by ',', ';' or tabs; with
  ';' and tabs a number may have a decimal comma. A first line `sep=;` says so, as spreadsheets write it.
- Lines that are blank or begin with '#' are skipped.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from python_backend.simulator.errors import ArrivalError

_SEPARATORS = ",;\t"
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PAR1")
"""How gzip, zip, bzip2, xz, zstd and Parquet begin."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """Cells without spaces around them, and the line that they end in, from 1."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """All rows; decimal_comma: '1,5' is a number here."""

    rows: list[TraceRow]
    decimal_comma: bool


def read_rows(path: Path) -> Rows:
    """The rows of a file, its header included. Raises ArrivalError."""
    text = _text(path)
    lines = text.splitlines()
    begun = [index for index, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    first = lines[begun[0]].strip() if begun else ""
    if first.startswith(("{", "[")):
        raise ArrivalError(f"{path}: JSON; wanted a CSV file with one arrival per row")
    separator = max(_SEPARATORS, key=first.count)
    if first.lower().startswith("sep=") and len(first) <= len("sep=;"):
        separator = first[len("sep=") :] or "\t"
        lines[begun[0]] = ""
    return Rows(_split(path, lines, separator), decimal_comma=separator != ",")


def _split(path: Path, lines: list[str], separator: str) -> list[TraceRow]:
    reader = csv.reader(lines, delimiter=separator)
    found = []
    try:
        for cells in reader:
            row = tuple(cell.strip() for cell in cells)
            if any(row) and not row[0].startswith("#"):
                found.append(TraceRow(reader.line_num, row))
    except csv.Error as error:
        raise ArrivalError(f"{path}: line {reader.line_num}: {error}; wanted a CSV file") from error
    return found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArrivalError(f"{path}: {error.strerror or error}") from error
    if data.startswith(_PACKED):
        raise ArrivalError(f"{path}: a packed file; unpack it, wanted is a CSV file")
    try:
        return data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ArrivalError(f"{path}: line {line}: no text in UTF-8 or UTF-16; wanted a CSV file") from error


def _encoding(data: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return encoding
    # Without a mark every other byte of ASCII is 0.
    return {b"\0": "utf-16-le"}.get(data[1:2], {b"\0": "utf-16-be"}.get(data[:1], "utf-8"))
