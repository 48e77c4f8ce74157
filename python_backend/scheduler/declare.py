"""How a record states its fields. Never compiled: the build writes records out as native classes instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[_Class]) -> type[_Class]:
    """A subclass of Record with these fields; `field(default=..., compare=False)` for one that is not
    compared.
    """
    return dataclass(frozen=True, eq=False, repr=False, slots=True)(cls)
