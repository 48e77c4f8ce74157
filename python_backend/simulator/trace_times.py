"""A cell to a time: a number of any unit, or a date as in ISO 8601. Exactly: whole nanoseconds since 1970
have more digits than a float.
"""

from __future__ import annotations

import datetime
import math
import re
from decimal import Decimal, InvalidOperation

_DATE = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}(?::\d{2})?)([.,]\d{1,12})?\s*(Z|UTC|[+-]\d{2}:?\d{2})?",
    re.IGNORECASE,
)
_LONGEST = 64
"""Characters of a cell that can be a time."""


def time_of(cell: str, decimal_comma: bool) -> Decimal | None:
    """The time in the file's own unit, seconds since 1970 for a date; None for any other text."""
    if len(cell) > _LONGEST:
        return None
    if cell[4:5] == "-" and (date := _DATE.fullmatch(cell)) is not None:
        return _date(*date.groups())
    text = cell.replace(",", ".") if decimal_comma and cell.count(",") == 1 else cell
    try:
        value = Decimal(text)
        return value if "_" not in text and math.isfinite(float(value)) else None
    except (InvalidOperation, ValueError, OverflowError):
        return None


def _date(day: str, time: str, fraction: str | None, zone: str | None) -> Decimal | None:
    """Dates without a zone are taken as UTC."""
    offset = "+00:00" if zone is None or zone.upper() in ("Z", "UTC") else zone
    try:
        whole = datetime.datetime.fromisoformat(f"{day}T{time}{offset}")
    except ValueError:
        return None
    return Decimal(int(whole.timestamp())) + (Decimal(f"0.{fraction[1:]}") if fraction else 0)
