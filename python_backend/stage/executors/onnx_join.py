"""Joins the ONNX files of blocks into one, so that ONNX Runtime and TensorRT fuse and plan it as one.

Rules
- A name means the same thing in all files of a split, so what is there already is not taken again: weights
  that blocks share, numbers that follow from the batch size, what is unpacked beside each reader.
- Nodes keep their order, which is a topological one: every file holds all that its own nodes read.
- How tensors travel stands at the two ends: a type that differs is cast, one number per frame comes and goes
  as [batch, 1], and what passes a stage untouched is called otherwise when it leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.profile import TensorSpec
from python_backend.stage.executors import onnx_wire as wire
from python_backend.stage.executors.errors import ProgramError
from python_backend.stage.executors.onnx_wire import Bytes, Described

Specs = tuple[TensorSpec, ...]

ELEMENT_TYPES: Mapping[str, int] = {
    "FP32": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7, "BOOL": 9, "FP16": 10,
    "FP64": 11, "UINT32": 12, "UINT64": 13,
}  # fmt: skip
"""TensorProto.DataType by Triton's names."""
LARGEST_FILE = (1 << 31) - (1 << 20)
"""Bytes of a message of protobuf, with room for its ends."""


@dataclass(frozen=True)
class OnnxProgram:
    """A whole file, and its inputs by the names that they have in it."""

    content: bytes
    inputs: Specs


def joined(files: Sequence[bytes], inputs: Specs, outputs: Specs) -> OnnxProgram:
    """The blocks, first to last. inputs, outputs: as they travel, without the batch. Raises ProgramError."""
    size = sum(map(len, files))
    if size > LARGEST_FILE:
        raise ProgramError(
            f"the stage's blocks are {size / 2**30:.1f} GiB, and one ONNX program holds 2: plan more stages"
        )
    try:
        graphs = [next(wire.entries(file, wire.GRAPH)) for file in files]
        return _Joined(inputs, outputs).program(files[0], graphs)
    except (wire.BadWire, StopIteration, UnicodeDecodeError) as error:
        raise ProgramError(f"a block's file is no ONNX program: {error}") from error


class _Joined:
    """A file under construction; used once."""

    def __init__(self, inputs: Specs, outputs: Specs) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._nodes: list[Bytes] = []
        self._weights: list[Bytes] = []
        self._there: set[str] = set()
        """Names of what nodes make and of weights."""

    def program(self, first: bytes, graphs: Sequence[Bytes]) -> OnnxProgram:
        """The whole of it. `first`: the first block's file, whose versions are those of all."""
        takes, gives = _ends(graphs)
        _require_counts((len(takes), len(gives)), (len(self._inputs), len(self._outputs)))
        given = [self._enter(value, spec) for value, spec in zip(takes, self._inputs, strict=True)]
        for graph in graphs:
            self._copy(graph)
        taken = {value.name for value in takes}
        left = [self._leave(value, spec, taken) for value, spec in zip(gives, self._outputs, strict=True)]
        chunks = [
            *_each(wire.NODE, self._nodes),
            *wire.packed(2, [b"stage"]),
            *_each(wire.INITIALIZER, self._weights),
            *_each(wire.INPUT, map(_described, given)),
            *_each(wire.OUTPUT, map(_described, left)),
        ]
        return OnnxProgram(b"".join((*_versions(first), *wire.packed(wire.GRAPH, chunks))), tuple(given))

    def _copy(self, graph: Bytes) -> None:
        for node in wire.entries(graph, wire.NODE):
            made = (bytes(each).decode() for each in wire.entries(node, wire.NODE_OUTPUT))
            self._add(self._nodes, node, next(filter(None, made), ""))
        for weight in wire.entries(graph, wire.INITIALIZER):
            self._add(self._weights, weight, wire.text(weight, wire.TENSOR_NAME))

    def _add(self, to: list[Bytes], entry: Bytes, name: str) -> None:
        if name and name in self._there:
            return
        self._there.add(name)
        to.append(entry)

    def _enter(self, value: Described, spec: TensorSpec) -> TensorSpec:
        """An input, from how it travels to how it is computed; as the file calls it."""
        if _travels_as_it_is(value, spec):
            return replace(spec, name=value.name)
        outside = now = f"{value.name}__wire"
        if value.rank == 1:
            now = self._reshaped(now, f"{value.name}__flat", [-1])
        self._convert(now, value.name, ELEMENT_TYPES[spec.dtype], value.element_type)
        return replace(spec, name=outside)

    def _leave(self, value: Described, spec: TensorSpec, taken: set[str]) -> TensorSpec:
        """An output, from how it is computed to how it travels; as the file calls it."""
        if _travels_as_it_is(value, spec) and value.name not in taken:
            return replace(spec, name=value.name)
        now, outside = value.name, f"{value.name}__out"
        if value.rank == 1:
            now = self._reshaped(now, f"{value.name}__column", [-1, 1])
        self._convert(now, outside, value.element_type, ELEMENT_TYPES[spec.dtype])
        return replace(spec, name=outside)

    def _convert(self, reads: str, makes: str, has: int, wanted: int) -> None:
        """From one element type to another."""
        same = has == wanted
        self._nodes.append(
            wire.node("Identity", [reads], makes) if same else wire.node("Cast", [reads], makes, to=wanted)
        )

    def _reshaped(self, reads: str, makes: str, shape: Sequence[int]) -> str:
        self._weights.append(wire.whole_numbers(f"{makes}__shape", shape))
        self._nodes.append(wire.node("Reshape", [reads, f"{makes}__shape"], makes))
        return makes


def _ends(graphs: Sequence[Bytes]) -> tuple[list[Described], list[Described]]:
    """What the first takes and the last gives. Raises ProgramError where two blocks do not fit together."""
    takes = [list(map(wire.described, wire.entries(graph, wire.INPUT))) for graph in graphs]
    gives = [list(map(wire.described, wire.entries(graph, wire.OUTPUT))) for graph in graphs]
    for given, taken in zip(gives, takes[1:], strict=False):
        if given != taken:
            raise ProgramError(
                f"one block gives {', '.join(each.name for each in given)} and the next takes "
                f"{', '.join(each.name for each in taken)}: generate the repository again"
            )
    return takes[0], gives[-1]


def _travels_as_it_is(value: Described, spec: TensorSpec) -> bool:
    return value.element_type == ELEMENT_TYPES[spec.dtype] and value.rank == 1 + len(spec.shape)


def _described(spec: TensorSpec) -> bytes:
    return wire.value_info(spec.name, ELEMENT_TYPES[spec.dtype], ["batch", *spec.shape])


def _each(number: int, messages: Iterator[bytes] | Sequence[Bytes]) -> Iterator[Bytes]:
    for message in messages:
        yield from wire.packed(number, [message])


def _versions(file: bytes) -> Iterator[Bytes]:
    """All of a model but its graph: format, producer, sets of operators."""
    for number, value in wire.fields(file):
        if isinstance(value, int):
            yield wire.whole(number, value)
        elif number != wire.GRAPH:
            yield from wire.packed(number, [value])


def _require_counts(found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise ProgramError(
            f"the program takes {found[0]} and gives {found[1]} tensors; the manifest says {wanted[0]} and "
            f"{wanted[1]}: generate the repository again"
        )
