"""Reads an ONNX file and says what is wrong with it: one line that names the file, the tensor or the node.

Rules
- Weights that lie in files of their own are not read here, only looked for: such files may be larger than
  memory.
- What is given back has functions inlined, constants as weights, and every name once.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, inliner

from planner.profiling.networks.errors import ModelError, first_line
from planner.profiling.onnx_files.tensors import (
    all_nodes,
    constant_of,
    external_place,
    is_external,
    opset_of,
    weight_size,
    weights_in,
)

OWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Whose operators ONNX Runtime has itself."""
_SHOWN = 3
_NO_SHAPE = "Field 'shape' of 'type' is required"
_STARTS_WITH = b"\x08"
"""The first field of a file, its version, in protobuf."""


def read_model(path: Path, where: str) -> ModelProto:
    """The model in the file at `path`. Raises ModelError."""
    said = f"{where}: program.onnx {path}"
    model = _parsed(path, said)
    _require_known_version(model, said)
    _require_weights(model, path.parent, said)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _require_known_operators(model, said)
    _require_names(model.graph, said)
    _require_tensors(model.graph, said)
    _require_sound(path, said)
    _constants_to_weights(model.graph)
    return model


def given_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """The inputs that a caller gives: older files list weights among them."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _parsed(path: Path, said: str) -> ModelProto:
    if not path.is_file():
        raise ModelError(f"{said}: {'a folder' if path.is_dir() else 'no such file'}")
    content = path.read_bytes()
    try:
        model: ModelProto = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        if content.startswith(_STARTS_WITH):
            raise ModelError(
                f"{said} is cut short or damaged: its {len(content)} bytes do not end with a whole record; "
                "copy it again"
            ) from error
        raise ModelError(f"{said} is no ONNX file; expected a file that onnx.load reads") from error
    if not model.graph.node:
        raise ModelError(f"{said} is no ONNX file, or an empty one: it holds no node")
    return model


def _require_known_version(model: ModelProto, said: str) -> None:
    opset, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ModelError(
            f"{said}: opset {opset} is newer than the installed onnx {onnx.__version__} knows, which is "
            f"{newest}: export it with opset {newest} or older, or install a newer onnx and onnxruntime"
        )
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{said}: file version (ir_version) {model.ir_version} is newer than the installed onnx "
            f"{onnx.__version__} knows, which is {int(onnx.IR_VERSION)}: install a newer onnx and onnxruntime"
        )


def _require_weights(model: ModelProto, folder: Path, said: str) -> None:
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ModelError(f"{said}: weight {name!r} is sparse; weights are accepted as dense tensors")
    for tensor in weights_in(model.graph):
        if is_external(tensor):
            _require_file(tensor, folder, said)


def _require_file(tensor: TensorProto, folder: Path, said: str) -> None:
    location, offset, length = external_place(tensor)
    pure = PurePosixPath(location)
    if pure.is_absolute() or ".." in pure.parts or not location:
        raise ModelError(
            f"{said}: weight {tensor.name!r} lies in {location!r}; a file beside the model's own is accepted"
        )
    file = folder / location
    if not file.is_file():
        raise ModelError(
            f"{said}: weight {tensor.name!r} lies in the file {file}, which is not here: keep it beside the "
            "model's file"
        )
    needed, there = offset + (length or weight_size(tensor)), file.stat().st_size
    if needed > there:
        raise ModelError(
            f"{said}: weight {tensor.name!r} ends at byte {needed} of {file}, which has {there}: it is cut "
            "short; copy it again"
        )


def _require_known_operators(model: ModelProto, said: str) -> None:
    unknown: dict[str, list[NodeProto]] = {}
    opset = opset_of(model)
    for node in all_nodes(model.graph):
        if node.domain not in OWN_DOMAINS:
            unknown.setdefault(node.domain, []).append(node)
        elif node.domain in OWN_DOMAINS[:2] and not onnx.defs.has(node.op_type, opset):
            raise ModelError(
                f"{said}: node {shown(node)}: opset {opset} has no operator {node.op_type}; export it "
                "with an opset that has"
            )
    for domain, nodes in unknown.items():
        names = ", ".join(map(shown, nodes[:_SHOWN])) + (", ..." if len(nodes) > _SHOWN else "")
        raise ModelError(
            f"{said}: operators of the custom domain {domain!r} ({names}); operators of ONNX itself and of "
            "com.microsoft are accepted: export without custom operators"
        )


def shown(node: NodeProto) -> str:
    """A node in words: its operator, and its name or what it makes."""
    return f"{node.op_type} {(node.name or next(iter(node.output), ''))!r}"


def _require_names(graph: GraphProto, said: str) -> None:
    weights = [tensor.name for tensor in graph.initializer]
    inputs = [value.name for value in graph.input if value.name not in set(weights)]
    made = [name for node in graph.node for name in node.output if name]
    for name, count in Counter([*weights, *inputs, *made]).items():
        if count > 1:
            raise ModelError(
                f"{said}: the name {name!r} is used for {count} tensors; each tensor has one of its own"
            )
    for name, count in Counter(value.name for value in graph.output).items():
        if count > 1:
            raise ModelError(f"{said}: output {name!r} is listed {count} times; once is accepted")


def _require_tensors(graph: GraphProto, said: str) -> None:
    for role, values in (("input", given_inputs(graph)), ("output", graph.output)):
        for value in values:
            kind = value.type.WhichOneof("value")
            if kind not in (None, "tensor_type"):
                what = str(kind).removesuffix("_type").replace("_", " ")
                raise ModelError(f"{said}: {role} {value.name!r} is a {what}; tensors are accepted")
            if value.type.tensor_type.elem_type == TensorProto.STRING:
                raise ModelError(
                    f"{said}: {role} {value.name!r} is a tensor of strings; tensors of numbers are accepted"
                )
    for value in given_inputs(graph):
        if not value.type.tensor_type.HasField("shape"):
            raise ModelError(
                f"{said}: input {value.name!r} says no number of dimensions; export it with a shape, whose "
                "sizes may be dynamic"
            )
        if not value.type.tensor_type.shape.dim:
            raise ModelError(
                f"{said}: input {value.name!r} is a scalar; dimension 0 of an input is the batch"
            )


def _require_sound(path: Path, said: str) -> None:
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        if _NO_SHAPE not in str(error):  # of an output, which ONNX Runtime takes and so do we
            raise ModelError(f"{said} is not valid ONNX: {first_line(error)}") from error


def _constants_to_weights(graph: GraphProto) -> None:
    """Constant nodes made initialisers: they are weights of whichever stage reads them."""
    kept = []
    for node in graph.node:
        tensor = constant_of(node) if node.op_type == "Constant" and not node.domain else None
        if tensor is None:
            kept.append(node)
            continue
        made = graph.initializer.add()
        made.CopyFrom(tensor)
        made.name = node.output[0]
    nodes = [_copy(node) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
