"""Makes a run of operators of an ONNX file a file of its own, with the weights that they read.

Rules
- Inputs and outputs stand in the part's order and have its names; an output that would have an input's name
  is called NAME_out.
- What follows from shapes is a constant, or is made of the batch, which is the first dimension of the first
  input.
- What is computed from weights alone is computed in every stage that reads it; ONNX Runtime does so once,
  when it loads the file.
- How a tensor travels may differ from how it is computed: casts and reshapes stand at both ends.
- Nothing that differs between machines is kept: no doc strings, no metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from planner.profile import TensorSpec
from planner.profiling.network import Part, Value
from planner.profiling.onnx_files.inference import Numbers
from planner.profiling.onnx_files.line import Line
from planner.profiling.onnx_files.tensors import ONNX_OF, bodies_of, loaded, reads_of

PRODUCER = "ppipe"
_BATCH = "ppipe__batch"


def stage_model(line: Line, part: Part, folder: Path) -> ModelProto:
    """The part as a file. `folder`: of the whole file, where its weights may lie."""
    return _Builder(line, part, folder).model()


def block_model(line: Line, part: Part, folder: Path) -> ModelProto:
    """The part's operators alone, to be joined with others (planner.programs). Values that travel have the
    names by which Triton may know them, the same in all files of the network.
    """
    return _Builder(line, part, folder).bare()


class _Builder:
    """Builds one file; used once."""

    def __init__(self, line: Line, part: Part, folder: Path) -> None:
        self._line = line
        self._part = part
        self._folder = folder
        self._names: dict[str, str] = {}
        """The file's own names -> names here, where they differ."""
        self._made: list[NodeProto] = []
        self._weights: dict[str, TensorProto] = {}
        self._there: set[str] = set()

    def model(self) -> ModelProto:
        """The whole of it."""
        part, line = self._part, self._line
        for value, spec in zip(part.takes, part.inputs, strict=True):
            self._enter(value, spec)
        nodes = line.nodes[part.span.start : part.span.stop]
        made = {name for node in nodes for name in node.output}
        for value, spec in zip(part.gives, part.outputs, strict=True):
            if value.name in made:
                as_it_is = self._travels_as_it_is(value, spec)
                self._names[value.name] = spec.name if as_it_is else f"{spec.name}__inside"
        for node in nodes:
            self._need(reads_of(node))
            self._add(node)
        outputs = [self._leave(value, spec) for value, spec in zip(part.gives, part.outputs, strict=True)]
        return self._model([_described(spec.name, spec) for spec in part.inputs], outputs)

    def bare(self) -> ModelProto:
        """The part without what stands at its ends."""
        part, line = self._part, self._line
        self._names = dict(line.names)
        self._there.update(value.name for value in part.takes)
        for node in line.nodes[part.span.start : part.span.stop]:
            self._need(reads_of(node))
            self._add(node)
        return self._model(list(map(self._as_computed, part.takes)), list(map(self._as_computed, part.gives)))

    def _model(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> ModelProto:
        graph = helper.make_graph(
            self._made, "stage", inputs, outputs, initializer=list(self._weights.values())
        )
        return helper.make_model(
            graph,
            opset_imports=self._line.model.opset_import,
            ir_version=max(self._line.model.ir_version, 4),  # older files list weights among inputs
            producer_name=PRODUCER,
        )

    def _as_computed(self, value: Value) -> ValueInfoProto:
        known = self._line.inferred.known[value.name]
        assert known.sizes is not None
        sizes = ["batch", *(size.rest for size in known.sizes[1:])]
        return helper.make_tensor_value_info(self._names[value.name], known.element_type, sizes)

    def _travels_as_it_is(self, value: Value, spec: TensorSpec) -> bool:
        known = self._line.inferred.known.get(value.name)
        return (
            known is not None
            and known.sizes is not None
            and known.element_type == ONNX_OF[spec.dtype]
            and len(known.sizes) == 1 + len(spec.shape)
        )

    def _enter(self, value: Value, spec: TensorSpec) -> None:
        """An input, from how it travels to how it is computed."""
        self._there.add(value.name)
        if self._travels_as_it_is(value, spec):
            self._names[value.name] = spec.name
            return
        known = self._line.inferred.known[value.name]
        assert known.sizes is not None
        name = spec.name
        if len(known.sizes) == 1:
            name = self._reshaped(name, f"{spec.name}__flat", [-1])
        if known.element_type != ONNX_OF[spec.dtype]:
            self._emit("Cast", [name], f"{spec.name}__in", to=known.element_type)
            name = f"{spec.name}__in"
        self._names[value.name] = name

    def _leave(self, value: Value, spec: TensorSpec) -> ValueInfoProto:
        """An output, from how it is computed to how it travels."""
        inside = self._names.get(value.name, value.name)
        taken = {each.name for each in self._part.inputs}
        outside = f"{spec.name}_out" if spec.name in taken else spec.name
        if inside == outside:
            return _described(outside, spec)
        known = self._line.inferred.known[value.name]
        assert known.sizes is not None
        if len(known.sizes) == 1:
            inside = self._reshaped(inside, f"{spec.name}__column", [-1, 1])
        if known.element_type != ONNX_OF[spec.dtype]:
            self._emit("Cast", [inside], outside, to=ONNX_OF[spec.dtype])
        else:
            self._emit("Identity", [inside], outside)
        return _described(outside, spec)

    def _reshaped(self, name: str, to: str, shape: Sequence[int]) -> str:
        constant = self._constant(f"{to}__shape", np.array(shape, dtype=np.int64))
        self._emit("Reshape", [name, constant], to)
        return to

    def _need(self, names: Iterable[str]) -> None:
        """Have what these nodes read and no operator of the network makes."""
        line = self._line
        for name in names:
            if name in self._there or name in line.carried:
                continue
            self._there.add(name)
            numbers = line.inferred.numbers.get(name)
            if numbers is not None:
                self._make(name, numbers)
            elif name in line.weights:
                tensor = loaded(line.weights[name], self._folder)
                tensor.doc_string = ""
                self._weights[name] = tensor
            elif name in line.maker:
                node = line.maker[name]
                self._need(reads_of(node))
                self._there.update(node.output)
                self._add(node)

    def _make(self, name: str, numbers: Numbers) -> None:
        """What follows from shapes."""
        if numbers.slope is None:
            self._constant(name, numbers.rest)
            return
        slope = self._constant(f"{name}__slope", numbers.slope.astype(np.int64))
        rest = self._constant(f"{name}__rest", numbers.rest.astype(np.int64))
        self._emit("Mul", [self._batch(), slope], f"{name}__product")
        kind = helper.np_dtype_to_tensor_dtype(numbers.rest.dtype)
        if kind == TensorProto.INT64:
            self._emit("Add", [f"{name}__product", rest], name)
            return
        self._emit("Add", [f"{name}__product", rest], f"{name}__sum")
        self._emit("Cast", [f"{name}__sum"], name, to=kind)

    def _batch(self) -> str:
        """The number of frames, a scalar."""
        if _BATCH not in self._there:
            self._there.add(_BATCH)
            place = self._constant(f"{_BATCH}_place", np.array(0, dtype=np.int64))
            first = self._part.takes[0].name
            self._emit("Shape", [self._names.get(first, first)], f"{_BATCH}_shape")
            self._emit("Gather", [f"{_BATCH}_shape", place], _BATCH, axis=0)
        return _BATCH

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        self._weights[name] = numpy_helper.from_array(array, name)
        return name

    def _emit(self, operator: str, reads: Sequence[str], makes: str, **attributes: Any) -> None:
        self._made.append(helper.make_node(operator, reads, [makes], name=makes, **attributes))

    def _add(self, node: NodeProto) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        _rename(copy, self._names)
        _strip(copy)
        self._made.append(copy)


def _described(name: str, spec: TensorSpec) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_OF[spec.dtype], ["batch", *spec.shape])


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Other names for what a node reads and makes, in the graphs inside too."""
    for index, name in enumerate(node.input):
        node.input[index] = names.get(name, name)
    for index, name in enumerate(node.output):
        node.output[index] = names.get(name, name)
    for body in bodies_of(node):
        own = {each.name for each in body.input} | {each.name for each in body.initializer}
        own |= {name for inner in body.node for name in inner.output}
        outside = {name: new for name, new in names.items() if name not in own}
        for inner in body.node:
            _rename(inner, outside)
        for value in body.output:
            value.name = outside.get(value.name, value.name)


def _strip(node: NodeProto) -> None:
    node.doc_string = ""
    del node.metadata_props[:]
    for graph in bodies_of(node):
        graph.doc_string = ""
        for inner in graph.node:
            _strip(inner)
