"""What events, actions and wire state are: small immutable records, compared and shown by their fields.

A record states its fields once, as a dataclass does. The compiled core makes several per frame, and a native
class costs a tenth of a frozen dataclass; so the build writes each record out as one
(python_backend.compiled.records).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any


class Record:
    """Base of all records."""

    __slots__ = ()

    def values(self) -> tuple[object, ...]:
        """The values of the fields that are compared, in order."""
        of: Any = self
        return tuple([getattr(self, each.name) for each in fields(of) if each.compare])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Record) and self.values() == other.values()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(value) for value in self.values())})"
