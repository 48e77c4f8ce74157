"""Small tensors that follow from shapes and constants, computed by onnx's reference implementation.

Rules
- Of real numbers only what every machine rounds alike: no sums over many, no curves.
- Operators of chance, with graphs inside, or that an engine fuses with their neighbours stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from planner.profiling.onnx_files.tensors import bodies_of, reads_of

MOST_NUMBERS = 4096
"""Of a tensor that is computed here; shapes and what is made of them are far smaller."""
_SHAPES = frozenset(("Shape", "Size"))
_KEPT = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
     "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
)  # fmt: skip
"""Operators that are never computed here: of chance, and those that an engine fuses with their neighbours."""
_EXACT = frozenset(
    ("Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Expand", "Flatten", "Floor", "Gather",
     "Identity", "Max", "Min", "Mul", "Neg", "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze")
)  # fmt: skip
"""The same on any machine for real numbers, too: they are moved, or one operation is rounded as IEEE says."""
Array = npt.NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]


def computed_from_shapes(model: ModelProto, shapes: Shapes, known: Mapping[str, Array]) -> dict[str, Array]:
    """What nodes make of shapes and numbers that are known, by name."""
    computed: dict[str, Array] = {}
    known = dict(known)
    for node in model.graph.node:
        if node.op_type in _KEPT or any(True for _ in bodies_of(node)):
            continue
        if node.op_type in _SHAPES and not node.domain:
            shape = shapes.get(node.input[0])
            made = None if shape is None else [_shape_of(node, shape)]
        else:
            ready = all(name in known for name in node.input if name) and _is_small(node, shapes)
            made = _evaluated(node, model, known) if ready else None
        if made is not None and all(map(_is_computable(node), made)):
            computed |= {name: array for name, array in zip(node.output, made, strict=False) if name}
            known |= computed
    return computed


def _is_computable(node: NodeProto) -> Callable[[Array], bool]:
    """Small, and the same on any machine."""
    exact = node.op_type in _EXACT
    return lambda array: array.size <= MOST_NUMBERS and (exact or array.dtype.kind != "f")


def _is_small(node: NodeProto, shapes: Shapes) -> bool:
    """Whether what a node makes is known to be no large tensor."""
    made = [shapes.get(name) for name in node.output if name]
    return all(shape is not None and math.prod(shape) <= MOST_NUMBERS for shape in made)


def _shape_of(node: NodeProto, shape: tuple[int, ...]) -> Array:
    if node.op_type == "Size":
        return np.array(math.prod(shape), dtype=np.int64)
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], dtype=np.int64)


def _evaluated(node: NodeProto, model: ModelProto, known: Mapping[str, Array]) -> list[Array] | None:
    """What a node makes of numbers; None where onnx has no reference implementation."""
    given = reads_of(node)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(known[name].dtype), None)
            for name in given
        ],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output if name],
    )
    try:
        one = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        made = ReferenceEvaluator(one).run(None, {name: known[name] for name in given})
    except Exception:  # whatever it is, the node stays an operator of the network
        return None
    return [np.asarray(array) for array in made]
