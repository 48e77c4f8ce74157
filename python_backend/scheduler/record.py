"""Base of events and actions: small immutable records, compared and shown by their fields.

Not dataclasses: the compiled core makes several per frame, and a native class costs a tenth of a frozen
dataclass. That they are not changed is checked by mypy (Final).
"""

from __future__ import annotations


class Record:
    """A record; subclasses name their fields in order in `__match_args__` and give their values."""

    __slots__ = ()

    def values(self) -> tuple[object, ...]:
        """The fields' values, in order."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Record) and self.values() == other.values()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(value) for value in self.values())})"
