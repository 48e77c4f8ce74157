"""A file's inputs and outputs beside the deployment's: names, types, sizes, and the batch.

Rules
- An input is the deployment's of the same name; a name that Triton does not take (with a slash, say) is
  written with underscores there.
- Sizes that the file leaves open are the deployment's; those that it states must be the same.
- Dimension 0 of every input and output is the batch. A file with a batch of a fixed size is served with any,
  if nothing in it fixes the size; else with batches of one alone, if it is one and the model has
  batch_sizes: [1].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, numpy_helper

from planner.profile import TensorSpec
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.outputs import safe_name
from planner.profiling.onnx_files.inference import Inferred, Known
from planner.profiling.onnx_files.reading import given_inputs, shown
from planner.profiling.onnx_files.tensors import ONNX_OF, TRAVELS_AS, TRITON_OF, reads_of, type_name

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MADE_UP = re.compile(r"unk_*\d*|\?|.*Dynamic\w*\.?\d*|dim_?\d+|None|-1|s\d+")
"""Names of sizes that exporters give each by itself; they say nothing of which sizes are equal."""


@dataclass(frozen=True)
class NetworkEnds:
    """What the network's ends are outside, by the file's names."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


def match_inputs(graph: GraphProto, wanted: tuple[TensorSpec, ...], where: str) -> Mapping[str, TensorSpec]:
    """The deployment's inputs by the file's names, in the deployment's order. Raises ModelError."""
    there = {value.name: value for value in given_inputs(graph)}
    called = {name if _PLAIN.fullmatch(name) else safe_name(name): name for name in there}
    found: dict[str, TensorSpec] = {}
    for spec in wanted:
        if spec.name not in called:
            names = ", ".join(f"{name} {_shape(there[called[name]])}" for name in called)
            raise ModelError(f"{where}: input {spec.name} is not in the file, whose inputs are {names}")
        found[called[spec.name]] = spec
    for name, own in called.items():
        if own not in found:
            raise ModelError(
                f"{where}: the file's input {name} {_shape(there[own])} is not in the deployment: list "
                "all of them under inputs"
            )
    for name, spec in found.items():
        _require_fit(there[name], spec, where)
    _require_one_batch([there[name] for name in found], where)
    return found


def fixed_batch(graph: GraphProto) -> int | None:
    """The size that the file gives the batch; None where it leaves it open."""
    return next((size for value in given_inputs(graph) if (size := _fixed(value)) is not None), None)


def _fixed(value: ValueInfoProto) -> int | None:
    dim = value.type.tensor_type.shape.dim[0]
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else None


def _named(value: ValueInfoProto) -> str:
    """What the file calls its batch; '' where an exporter made the name up."""
    name = str(value.type.tensor_type.shape.dim[0].dim_param)
    return "" if _MADE_UP.fullmatch(name) else name


def _require_fit(value: ValueInfoProto, spec: TensorSpec, where: str) -> None:
    tensor = value.type.tensor_type
    if spec.dtype not in ONNX_OF:
        raise ModelError(f"{where}: input {spec.name}: dtype {spec.dtype} is not one of {', '.join(ONNX_OF)}")
    if tensor.elem_type != ONNX_OF[spec.dtype]:
        raise ModelError(
            f"{where}: input {spec.name} is {type_name(tensor.elem_type)} in the file and {spec.dtype} in "
            "the deployment"
        )
    dims = tensor.shape.dim[1:]
    fits = len(dims) == len(spec.shape) and all(
        not dim.HasField("dim_value") or dim.dim_value <= 0 or dim.dim_value == size
        for dim, size in zip(dims, spec.shape, strict=True)
    )
    if not fits:
        sizes = ", ".join(map(str, spec.shape))
        raise ModelError(
            f"{where}: input {spec.name} is {_shape(value)} in the file and [batch, {sizes}] in the "
            "deployment"
        )


def _require_one_batch(values: list[ValueInfoProto], where: str) -> None:
    fixed, named = {_fixed(value) for value in values}, {_named(value) for value in values}
    if len(fixed) > 1 or len(named - {""}) > 1:
        shapes = " and ".join(f"{value.name} {_shape(value)}" for value in values)
        raise ModelError(
            f"{where}: inputs {shapes} have different batches; a frame is one row of each, so export "
            "dimension 0 of all of them as one dynamic size of the same name"
        )


def match_outputs(
    model: ModelProto, inferred: Inferred, inputs: Mapping[str, TensorSpec], where: str
) -> Mapping[str, TensorSpec]:
    """The outputs by the file's names, safe for Triton, in the file's order. Raises ModelError."""
    taken = {spec.name for spec in inputs.values()}
    found: dict[str, TensorSpec] = {}
    for value in model.graph.output:
        name = value.name if _PLAIN.fullmatch(value.name) else safe_name(value.name)
        name = f"output_{name}" if name in taken else name
        if name in taken:
            raise ModelError(f"{where}: two outputs would both be called {name} in Triton; rename one")
        taken.add(name)
        found[value.name] = _output(name, value.name, model, inferred, where)
    return found


def _output(name: str, own: str, model: ModelProto, inferred: Inferred, where: str) -> TensorSpec:
    known = inferred.known.get(own)
    if known is None or own in {tensor.name for tensor in model.graph.initializer} or own in inferred.numbers:
        raise ModelError(
            f"{where}: output {name} is the same for every frame: leave it out of the file's outputs"
        )
    if known.element_type not in TRAVELS_AS:
        raise ModelError(
            f"{where}: output {name} is {type_name(known.element_type)}; one of "
            f"{', '.join(TRITON_OF.values())} is accepted"
        )
    if known.sizes is None:
        raise ModelError(
            f"{where}: output {name}: its shape depends on more than the batch{_blame(model, inferred)}; "
            "sizes other than the batch must be fixed"
        )
    if not known.sizes or known.sizes[0] != inferred.batch:
        shape = ", ".join(map(str, known.sizes))
        said = f"{where}: output {name} is [{shape}]; its first dimension must be the batch"
        raise ModelError(f"{said}{_baked(model, inferred)}")
    rest = known.sizes[1:]
    if any(size.slope or size.rest < 1 for size in rest):
        shape = ", ".join(map(str, known.sizes))
        raise ModelError(f"{where}: output {name} is [{shape}]; sizes other than the batch must be fixed")
    shape_of_frame = tuple(size.rest for size in rest) or (1,)
    return TensorSpec(name=name, dtype=TRAVELS_AS[known.element_type], shape=shape_of_frame)


def _baked(model: ModelProto, inferred: Inferred) -> str:
    """', which CONSTANT of NODE fixes', where a node takes the batch and gives none."""
    node = next((node for node in model.graph.node if _loses_batch(node, inferred)), None)
    if node is None:
        return ""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    numbers = [name for name in node.input if name in inferred.numbers or name in constants]
    said = f", which {shown(node)} loses"
    if node.op_type in ("Reshape", "Expand", "Tile") and numbers:
        given = inferred.numbers.get(numbers[-1])
        values = given.rest if given is not None else numpy_helper.to_array(constants[numbers[-1]])
        said = f", which tensor {numbers[-1]!r} = {values.tolist()} of {shown(node)} fixes"
    return f"{said}: export it with a dynamic batch"


def _loses_batch(node: NodeProto, inferred: Inferred) -> bool:
    made = [inferred.known.get(name) for name in node.output if name]
    if any(name in inferred.numbers for name in node.output):
        return False
    read = [inferred.known.get(name) for name in reads_of(node)]
    return any(map(_has_batch, read)) and not any(
        each is None or each.sizes is None or _has_batch(each) for each in made
    )


def _has_batch(known: Known | None) -> bool:
    return known is not None and known.sizes is not None and any(size.slope for size in known.sizes)


def _blame(model: ModelProto, inferred: Inferred) -> str:
    """' from NODE on', the first whose shape is not known."""
    for node in model.graph.node:
        for name in node.output:
            known = inferred.known.get(name)
            if name and name not in inferred.numbers and (known is None or known.sizes is None):
                return f" from {shown(node)} on"
    return ""


def _shape(value: ValueInfoProto) -> str:
    """'[N, 3, 224, 224]'."""
    dims = value.type.tensor_type.shape.dim
    return f"[{', '.join(dim.dim_param or (str(dim.dim_value) if dim.dim_value else '?') for dim in dims)}]"
