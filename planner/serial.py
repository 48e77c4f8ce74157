"""Frozen dataclasses to JSON and back, with errors that name the field.

Rules: output is canonical (same data, same bytes, on any machine); input is checked against the annotations,
and an
unknown or missing field is an error, because a silently dropped field of a plan is a wrong plan.
Only the standard library, so that GPU servers need nothing else to read a manifest.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import math
import os
import secrets
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
LATER: Mapping[str, bool] = types.MappingProxyType({"later": True})
"""Metadata of a field that came later: written only where it is not its default, so that what does not use it
has the text, and the hash, that it had before.
"""


class FormatError(ValueError):
    """Data that does not fit its type: the message names the field, the value and what would be accepted."""


def dumps(record: Any) -> str:
    """`record`, a dataclass instance, as canonical JSON text ending in a newline."""
    return json.dumps(to_plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_plain(value: Any) -> Any:
    """`value` as dicts, lists and scalars, in field order."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (field.metadata.get("later") and getattr(value, field.name) == field.default)
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def content_hash(record: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the canonical text."""
    return hashlib.sha256(dumps(record).encode()).hexdigest()[:16]


def loads(cls: type[T], text: str, where: str = "") -> T:
    """The `cls` written by `dumps`. Raises FormatError."""
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise FormatError(f"{where or cls.__name__}: not JSON: {error}") from error
    return typing.cast(T, from_plain(cls, plain, where or cls.__name__))


def load(cls: type[T], path: Path) -> T:
    """The `cls` in the file at `path`. Raises FormatError, OSError."""
    return loads(cls, path.read_text(encoding="utf-8"), str(path))


def save(record: Any, path: Path) -> None:
    """Write what `dumps` gives in one step, readable by its owner alone: who reads sees the old file or the
    new one. Raises OSError.
    """
    text = dumps(record)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def from_plain(cls: Any, plain: Any, where: str) -> Any:
    """Build `cls`, any annotation made of dataclasses, tuples, mappings, optionals and scalars, from plain
    data.
    """
    origin = typing.get_origin(cls)
    if dataclasses.is_dataclass(cls):
        return _record(cls, plain, where)
    if origin in (typing.Union, types.UnionType):
        return _union(cls, plain, where)
    if origin is tuple:
        return _tuple(cls, plain, where)
    if origin is typing.Literal:
        if plain not in typing.get_args(cls):
            raise FormatError(
                f"{where}: {plain!r} is not one of {', '.join(map(repr, typing.get_args(cls)))}"
            )
        return plain
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(cls, plain, where)
    if isinstance(cls, type) and issubclass(cls, enum.Enum):
        return _enum(cls, plain, where)
    return _scalar(cls, plain, where)


@functools.cache
def _fields(cls: Any) -> Mapping[str, tuple[Any, bool]]:
    """Of a dataclass, by field: its annotation, and whether it has no default. Evaluating annotations takes
    longer than reading a record.
    """
    hints, missing = typing.get_type_hints(cls), dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(cls)
    }


def _record(cls: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise FormatError(f"{where}: {plain!r} is not an object with the fields of {cls.__name__}")
    fields = _fields(cls)
    for name in plain:
        if name not in fields:
            raise FormatError(f"{where}.{name}: unknown field; {cls.__name__} has {', '.join(fields)}")
    values = {}
    for name, (annotation, is_needed) in fields.items():
        if name in plain:
            values[name] = from_plain(annotation, plain[name], f"{where}.{name}")
        elif is_needed:
            raise FormatError(f"{where}.{name}: missing; {cls.__name__} needs it")
    try:
        return cls(**values)
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error


def _union(cls: Any, plain: Any, where: str) -> Any:
    choices = [choice for choice in typing.get_args(cls) if choice is not type(None)]
    if plain is None and len(choices) < len(typing.get_args(cls)):
        return None
    errors = []
    for choice in choices:
        try:
            return from_plain(choice, plain, where)
        except FormatError as error:
            errors.append(error)
    raise errors[-1]


def _tuple(cls: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, list | tuple):
        raise FormatError(f"{where}: {plain!r} is not a list")
    args = typing.get_args(cls)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(from_plain(args[0], item, f"{where}[{index}]") for index, item in enumerate(plain))
    if len(args) != len(plain):
        raise FormatError(f"{where}: {len(plain)} items; expected {len(args)}")
    return tuple(
        from_plain(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, plain, strict=True))
    )


def _mapping(cls: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise FormatError(f"{where}: {plain!r} is not an object")
    _, value_type = typing.get_args(cls)
    return {key: from_plain(value_type, value, f"{where}.{key}") for key, value in plain.items()}


def _enum(cls: type[enum.Enum], plain: Any, where: str) -> enum.Enum:
    try:
        return cls(plain)
    except ValueError:
        allowed = ", ".join(repr(member.value) for member in cls)
        raise FormatError(f"{where}: {plain!r} is not one of {allowed}") from None


def _scalar(cls: Any, plain: Any, where: str) -> Any:
    if cls is Any:
        return plain
    if cls is float and isinstance(plain, int | float) and not isinstance(plain, bool):
        if not math.isfinite(plain):
            raise FormatError(f"{where}: {plain!r} is not a finite number")
        return float(plain)
    if isinstance(cls, type) and isinstance(plain, cls) and (cls is bool or not isinstance(plain, bool)):
        return plain
    raise FormatError(
        f"{where}: {plain!r} is not {'a' if cls is not int else 'an'} {getattr(cls, '__name__', cls)}"
    )
