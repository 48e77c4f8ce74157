"""ONNX files as their bytes lie (protobuf's encoding): read entry by entry, put together anew without a copy.

A stage's stub needs no onnx package for that: an entry that is passed on is never looked into, weights above
all. Numbers of fields are onnx.proto's; they never change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

Bytes = bytes | memoryview

GRAPH = 7
"""Field of a model."""
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12
"""Fields of a graph."""
NODE_OUTPUT, TENSOR_NAME, VALUE_NAME = 2, 8, 1
_BYTES = 2
_FIXED: Mapping[int, int] = {1: 8, 5: 4}
"""Widths of numbers that are not of variable length, by kind."""
_INT, _INT64 = 2, 7
"""AttributeProto's type of a whole number; TensorProto's of 64 bits."""


class BadWire(ValueError):
    """Bytes that are no message."""


@dataclass(frozen=True)
class Described:
    """A tensor at an end of a graph: element type as ONNX numbers it, and its dimensions, batch included."""

    name: str
    element_type: int
    rank: int


def fields(message: Bytes) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field; of a nested one its bytes. Raises BadWire."""
    view, at = memoryview(message), 0
    while at < len(view):
        tag, at = _number(view, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _number(view, at)
            yield number, value
            continue
        if kind == _BYTES:
            width, at = _number(view, at)
        elif kind in _FIXED:
            width = _FIXED[kind]
        else:
            raise BadWire(f"a field of kind {kind}")
        if at + width > len(view):
            raise BadWire("it ends within a field")
        yield number, view[at : at + width]
        at += width


def entries(message: Bytes, *numbers: int) -> Iterator[memoryview]:
    """The nested fields of these numbers, in order."""
    for number, value in fields(message):
        if number in numbers and isinstance(value, memoryview):
            yield value


def text(message: Bytes, number: int) -> str:
    """The first text of this number; '' without one."""
    return next((bytes(each).decode() for each in entries(message, number)), "")


def described(value: Bytes) -> Described:
    """A ValueInfoProto. Raises BadWire for one without a type."""
    for kind in entries(value, 2):
        for tensor in entries(kind, 1):
            element = next(each for number, each in fields(tensor) if number == 1)
            rank = sum(1 for shape in entries(tensor, 2) for _ in entries(shape, 1))
            assert isinstance(element, int)
            return Described(text(value, VALUE_NAME), element, rank)
    raise BadWire(f"{text(value, VALUE_NAME)!r} has no type")


def packed(number: int, chunks: Iterable[Bytes]) -> list[Bytes]:
    """A nested field of those bytes, not joined yet."""
    content = list(chunks)
    return [_varint(number << 3 | _BYTES), _varint(sum(map(len, content))), *content]


def value_info(name: str, element_type: int, sizes: Iterable[int | str]) -> bytes:
    """A ValueInfoProto; a size that is a text is one that may vary."""
    dims = b"".join(
        _nested(1, _texts(2, size) if isinstance(size, str) else whole(1, size)) for size in sizes
    )
    tensor = whole(1, element_type) + _nested(2, dims)
    return _texts(VALUE_NAME, name) + _nested(2, _nested(1, tensor))


def node(operator: str, reads: Iterable[str], makes: str, **attributes: int) -> bytes:
    """A NodeProto with one output."""
    own = b"".join(
        _nested(5, _texts(1, name) + whole(3, value) + whole(20, _INT)) for name, value in attributes.items()
    )
    return _texts(1, *reads) + _texts(NODE_OUTPUT, makes) + _texts(3, makes) + _texts(4, operator) + own


def whole_numbers(name: str, numbers: Iterable[int]) -> bytes:
    """A TensorProto of 64-bit whole numbers in a row."""
    content = [each.to_bytes(8, "little", signed=True) for each in numbers]
    raw = _nested(9, b"".join(content))
    return whole(1, len(content)) + whole(2, _INT64) + _texts(TENSOR_NAME, name) + raw


def _number(view: memoryview, at: int) -> tuple[int, int]:
    """(number of variable length at this place, place after it)."""
    value = shift = 0
    while at < len(view) and shift < 70:
        byte = view[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    raise BadWire("it ends within a number")


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes((*made, value))


def _nested(number: int, content: bytes) -> bytes:
    return b"".join(packed(number, [content]))


def _texts(number: int, *values: str) -> bytes:
    return b"".join(_nested(number, value.encode()) for value in values)


def whole(number: int, value: int) -> bytes:
    """A field that is a whole number."""
    return _varint(number << 3) + _varint(value)
