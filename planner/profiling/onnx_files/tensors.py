"""Tensors of ONNX files: types as Triton names them, sizes, and weights wherever their bytes lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, external_data_helper, numpy_helper

TRITON_OF: Mapping[int, str] = {
    TensorProto.BOOL: "BOOL", TensorProto.INT8: "INT8", TensorProto.UINT8: "UINT8",
    TensorProto.INT16: "INT16", TensorProto.UINT16: "UINT16", TensorProto.FLOAT16: "FP16",
    TensorProto.INT32: "INT32", TensorProto.UINT32: "UINT32", TensorProto.FLOAT: "FP32",
    TensorProto.INT64: "INT64", TensorProto.UINT64: "UINT64", TensorProto.DOUBLE: "FP64",
}  # fmt: skip
ONNX_OF: Mapping[str, int] = {name: number for number, name in TRITON_OF.items()}
TRAVELS_AS: Mapping[int, str] = {**TRITON_OF, TensorProto.BFLOAT16: "FP32"}
"""Between stages; numpy has no BF16."""
_BITS: Mapping[int, int] = {
    TensorProto.BOOL: 8, TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16,
    TensorProto.UINT16: 16, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16, TensorProto.INT32: 32,
    TensorProto.UINT32: 32, TensorProto.FLOAT: 32, TensorProto.INT64: 64, TensorProto.UINT64: 64,
    TensorProto.DOUBLE: 64, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
    TensorProto.INT4: 4, TensorProto.UINT4: 4,
}  # fmt: skip
_BITS_OF_OTHERS = 8
"""The 8-bit floats."""


def type_name(element_type: int) -> str:
    """As Triton calls it, or as ONNX does where Triton has none."""
    return TRITON_OF.get(element_type) or str(TensorProto.DataType.Name(element_type))


def bytes_of(element_type: int, numbers: int) -> int:
    """Bytes of so many numbers."""
    return -(-numbers * _BITS.get(element_type, _BITS_OF_OTHERS) // 8)


def weight_numbers(tensor: TensorProto) -> int:
    """Numbers in a weight."""
    return math.prod(tensor.dims)


def weight_size(tensor: TensorProto) -> int:
    """Bytes of a weight."""
    return bytes_of(tensor.data_type, weight_numbers(tensor))


def is_external(tensor: TensorProto) -> bool:
    """Whether its bytes lie in a file of their own."""
    return bool(external_data_helper.uses_external_data(tensor))


def external_place(tensor: TensorProto) -> tuple[str, int, int | None]:
    """(file beside the model, offset, length or None for the rest)."""
    info = external_data_helper.ExternalDataInfo(tensor)
    return str(info.location), int(info.offset or 0), None if info.length is None else int(info.length)


def loaded(tensor: TensorProto, folder: Path) -> TensorProto:
    """The weight with its bytes inside; `folder`: of the model's file. The given one stays as it is."""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    if is_external(copy):
        external_data_helper.load_external_data_for_tensor(copy, str(folder))
        copy.ClearField("data_location")
        del copy.external_data[:]
    return copy


def array_of(tensor: TensorProto, folder: Path) -> npt.NDArray[np.generic]:
    """The weight's numbers."""
    return np.asarray(numpy_helper.to_array(loaded(tensor, folder)))


def constant_of(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None for one that is no tensor of numbers."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name in ("value_float", "value_floats"):
            floats = [attribute.f] if attribute.name == "value_float" else list(attribute.floats)
            return numpy_helper.from_array(_shaped(floats, np.float32, attribute.name))
        if attribute.name in ("value_int", "value_ints"):
            whole = [attribute.i] if attribute.name == "value_int" else list(attribute.ints)
            return numpy_helper.from_array(_shaped(whole, np.int64, attribute.name))
    return None


def _shaped(numbers: list[float] | list[int], dtype: type, name: str) -> npt.NDArray[np.generic]:
    array: npt.NDArray[np.generic] = np.array(numbers, dtype=dtype)
    return array if name.endswith("s") else array.reshape(())


def bodies_of(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs inside a node: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Those of the graph and of all graphs inside."""
    for node in graph.node:
        yield node
        for body in bodies_of(node):
            yield from all_nodes(body)


def reads_of(node: NodeProto) -> list[str]:
    """Names of what a node reads, what the graphs inside take from around them included; each once."""
    read = dict.fromkeys(name for name in node.input if name)
    for body in bodies_of(node):
        read |= dict.fromkeys(_captured(body))
    return list(read)


def _captured(body: GraphProto) -> Iterator[str]:
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    for node in body.node:
        yield from (name for name in reads_of(node) if name not in own)
        own |= set(node.output)
    yield from (value.name for value in body.output if value.name not in own)


def weights_in(graph: GraphProto) -> Iterator[TensorProto]:
    """Initialisers and constants, of the graphs inside too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.TENSORS:
                yield from attribute.tensors
        for body in bodies_of(node):
            yield from weights_in(body)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
