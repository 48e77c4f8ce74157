"""Shapes of what a Loop gives: those of what it was given, where no turn changes them.

onnx's own inference gives none, because a turn might; here the body is inferred once, for the first turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from planner.profiling.onnx_files.tensors import bodies_of, reads_of

Types = Mapping[str, tuple[int, tuple[int, ...]]]
"""By name: element type and shape, as far as they are known."""


def loop_outputs(model: ModelProto, known: Types) -> Iterator[ValueInfoProto]:
    """Shapes of loops' final states that are not known yet."""
    for node in model.graph.node:
        states = [name for name in node.input[2:] if name]
        made = [name for name in node.output[: len(states)] if name]
        wanted = node.op_type == "Loop" and not all(name in known for name in made)
        if wanted and all(name in known for name in reads_of(node)):
            yield from _unchanged(node, states, model, known)


def _unchanged(
    node: NodeProto, states: list[str], model: ModelProto, known: Types
) -> Iterator[ValueInfoProto]:
    (body,) = bodies_of(node)
    after = _inferred(body, _body_inputs(node, body, states, known), model)
    for name, state, ended in zip(node.output, states, body.output[1:], strict=False):
        if name and after.get(ended.name) == known[state]:
            yield _described(name, known[state])


def _body_inputs(node: NodeProto, body: GraphProto, states: list[str], known: Types) -> list[ValueInfoProto]:
    own = [
        helper.make_tensor_value_info(body.input[0].name, TensorProto.INT64, []),
        helper.make_tensor_value_info(body.input[1].name, TensorProto.BOOL, []),
        *(_described(value.name, known[state]) for value, state in zip(body.input[2:], states, strict=True)),
    ]
    captured = [name for name in reads_of(node) if name not in set(node.input)]
    return [*own, *(_described(name, known[name]) for name in captured)]


def _inferred(body: GraphProto, inputs: list[ValueInfoProto], model: ModelProto) -> Types:
    outputs = [
        helper.make_tensor_value_info(value.name, TensorProto.UNDEFINED, None) for value in body.output
    ]
    graph = helper.make_graph(list(body.node), "turn", inputs, outputs, initializer=list(body.initializer))
    turn = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        made = onnx.shape_inference.infer_shapes(turn, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return {}
    found = {}
    for value in (*made.input, *made.value_info, *made.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[value.name] = (tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim))
    return found


def _described(name: str, kind: tuple[int, tuple[int, ...]]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind[0], kind[1])
