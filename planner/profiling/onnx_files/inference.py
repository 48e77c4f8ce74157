"""Shapes of all tensors as functions of the batch, and the numbers in tensors that follow from shapes.

Every tensor's shape is inferred by onnx for a few batch sizes, none of them a size that networks have by
nature, and a dimension is what fits all of them: slope * batch + rest. With plain numbers in place of
symbols every operator's rule applies (a Resize by a factor has no rule for a symbol), and what is computed
from shapes and small constants alone (Shape, Gather, Concat, ... before a Reshape) can be computed here, by
onnx's reference implementation. Shapes that wait for such numbers are inferred in the next round.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from planner.profile import TensorSpec
from planner.profiling.networks.errors import ModelError, first_line
from planner.profiling.onnx_files.folding import MOST_NUMBERS, computed_from_shapes
from planner.profiling.onnx_files.loops import Types, loop_outputs
from planner.profiling.onnx_files.tensors import (
    ONNX_OF,
    bodies_of,
    is_external,
    weight_numbers,
)

BATCHES = (2, 3, 7)
"""A line through two of them is checked by the third."""
_ROUNDS = 12
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Size:
    """One dimension: slope * batch + rest."""

    slope: int
    rest: int

    def at(self, batch: int) -> int:
        """For so many frames."""
        return self.slope * batch + self.rest

    def __str__(self) -> str:
        if not self.slope:
            return str(self.rest)
        factor = "batch" if self.slope == 1 else f"{self.slope} * batch"
        return f"{factor} + {self.rest}" if self.rest else factor


@dataclass(frozen=True)
class Numbers:
    """What depends on shapes alone: slope * batch + rest, number by number. `slope` None: the same for every
    batch.
    """

    rest: Array
    slope: Array | None = None


@dataclass(frozen=True)
class Known:
    """What is known of a tensor; sizes None: its shape is not."""

    element_type: int
    sizes: tuple[Size, ...] | None


@dataclass(frozen=True)
class Inferred:
    """known: by name, weights left out. numbers: of what depends on shapes alone, by name. batch: as a size;
    a constant where the file serves one batch size only.
    """

    known: Mapping[str, Known]
    numbers: Mapping[str, Numbers]
    batch: Size


class ShapeFault(ModelError):
    """Shapes that do not fit together."""


def infer(model: ModelProto, inputs: Mapping[str, TensorSpec], batches: Sequence[int] = BATCHES) -> Inferred:
    """Shapes for every batch; `inputs`: the deployment's, by the file's names.

    One of `batches` alone: for it alone. Raises ShapeFault, with what onnx says.
    """
    skeleton = _skeleton(model)
    found = [_at(skeleton, inputs, batch) for batch in batches]
    known = {
        name: Known(element_type=kind, sizes=_sizes([each.shapes.get(name) for each in found], batches))
        for name, kind in found[0].types.items()
    }
    numbers = {
        name: fitted
        for name in found[0].values
        if (fitted := _numbers([each.values.get(name) for each in found], batches)) is not None
    }
    return Inferred(
        known=known, numbers=numbers, batch=Size(1, 0) if len(batches) > 1 else Size(0, batches[0])
    )


def _skeleton(model: ModelProto) -> ModelProto:
    """The model with its large weights as inputs: shapes are all that is asked of them."""
    made = ModelProto()
    made.ir_version = max(model.ir_version, 4)
    made.opset_import.extend(model.opset_import)
    graph = made.graph
    graph.name = "skeleton"
    for node in model.graph.node:
        graph.node.add().CopyFrom(node)
    weights = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in weights)
    for value in model.graph.output:
        kind = value.type.tensor_type.elem_type
        graph.output.append(helper.make_tensor_value_info(value.name, kind, None))
    for tensor in model.graph.initializer:
        if weight_numbers(tensor) > MOST_NUMBERS or is_external(tensor):
            dims = list(tensor.dims)
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, dims))
        else:
            graph.initializer.add().CopyFrom(tensor)
    return made


@dataclass
class _Found:
    """Of one batch size."""

    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    """Computed from shapes."""


def _at(skeleton: ModelProto, inputs: Mapping[str, TensorSpec], batch: int) -> _Found:
    model = ModelProto()
    model.CopyFrom(skeleton)
    for value in model.graph.input:
        if value.name in inputs:
            spec = inputs[value.name]
            sizes = [batch, *spec.shape]
            value.CopyFrom(helper.make_tensor_value_info(value.name, ONNX_OF[spec.dtype], sizes))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = _Found()
    asked_otherwise = False
    for _ in range(_ROUNDS):
        _read(_inferred(model), found)
        computed = computed_from_shapes(model, found.shapes, {**constants, **found.values})
        if not computed and _unknown(model.graph, found):
            more = list(loop_outputs(model, _types(found, constants)))
            if not more and not asked_otherwise:
                asked_otherwise = True
                more = _inferred_otherwise(model)
            model.graph.value_info.extend(more)
            if more:
                continue
        if not computed:
            break
        found.values |= computed
        for name, array in computed.items():
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        _drop(model.graph, set(computed))
    return found


def _inferred(model: ModelProto) -> GraphProto:
    try:
        return onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        ).graph
    except onnx.shape_inference.InferenceError as error:
        raise ShapeFault(_brief(error)) from error


def _types(found: _Found, constants: Mapping[str, Array]) -> Types:
    known = {name: (found.types[name], shape) for name, shape in found.shapes.items()}
    for name, array in {**constants, **found.values}.items():
        known[name] = (helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
    return known


def _unknown(graph: GraphProto, found: _Found) -> bool:
    """Whether the shape of some tensor is not known."""
    return any(name and name not in found.shapes for node in graph.node for name in node.output)


def _inferred_otherwise(model: ModelProto) -> list[ValueInfoProto]:
    """What ONNX Runtime's inference knows beyond onnx's: shapes of its own operators, and through loops."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    log = logging.getLogger("onnxruntime.tools.symbolic_shape_infer")
    log.disabled = True
    try:
        made = SymbolicShapeInference.infer_shapes(model)
    except Exception:  # it knows no more
        return []
    finally:
        log.disabled = False
    there = {value.name for value in (*model.graph.output, *model.graph.value_info)}
    return [value for value in made.graph.value_info if value.name not in there and _is_whole(value)]


def _is_whole(value: ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return bool(tensor.HasField("shape")) and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _brief(error: Exception) -> str:
    """'Reshape 'name': what does not fit', of what onnx says."""
    text = first_line(error).partition(": ")[2] or str(error)
    found = re.search(
        r"\(op_type:(\w+)(?:, node name: ([^)]*))?\): (?:\[\w+\] )?(.+)", text.replace("\n", " ")
    )
    named = f" {found[2]!r}" if found and found[2] else ""
    return f"{found[1]}{named}: {found[3]}" if found else text


def _read(graph: GraphProto, found: _Found) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        _note(value, found)
    for node in graph.node:
        for body in bodies_of(node):
            _read(body, found)


def _note(value: ValueInfoProto, found: _Found) -> None:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type":
        return
    found.types[value.name] = tensor.elem_type
    dims = tensor.shape.dim
    if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
        found.shapes[value.name] = tuple(int(dim.dim_value) for dim in dims)


def _drop(graph: GraphProto, names: set[str]) -> None:
    """Nodes whose outputs are all known."""
    kept = [node for node in graph.node if not all(name in names for name in node.output if name)]
    copies = []
    for node in kept:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def _sizes(shapes: Sequence[tuple[int, ...] | None], batches: Sequence[int]) -> tuple[Size, ...] | None:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    sizes = [_size(column, batches) for column in zip(*known, strict=True)]
    fitted = tuple(size for size in sizes if size is not None)
    return fitted if len(fitted) == len(sizes) else None


def _size(numbers: Sequence[int], batches: Sequence[int]) -> Size | None:
    if len(set(numbers)) == 1:
        return Size(0, numbers[0])
    slope, left = divmod(numbers[1] - numbers[0], batches[1] - batches[0])
    size = Size(slope, numbers[0] - slope * batches[0])
    fits = all(size.at(batch) == number for batch, number in zip(batches, numbers, strict=True))
    return size if fits and not left else None


def _numbers(arrays: Sequence[Array | None], batches: Sequence[int]) -> Numbers | None:
    known = [array for array in arrays if array is not None]
    if len(known) < len(arrays) or len({(array.shape, array.dtype) for array in known}) != 1:
        return None
    first = known[0]
    if all(np.array_equal(first, array) for array in known[1:]):
        return Numbers(rest=first)
    if first.dtype.kind not in "iu":
        return None
    slope = (known[1].astype(np.int64) - first) // (batches[1] - batches[0])
    rest = first.astype(np.int64) - slope * batches[0]
    fits = all(
        np.array_equal(slope * batch + rest, array) for batch, array in zip(batches, known, strict=True)
    )
    return Numbers(rest=rest, slope=slope) if fits else None
