"""Small ONNX files, made node by node."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG_SEED = 0
OPSET = 17


def value(name: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, array: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def random(name: str, *shape: int, seed: int = RNG_SEED) -> TensorProto:
    rng = np.random.default_rng([seed, *name.encode()])
    return weight(name, rng.normal(0, 0.3, shape).astype(np.float32))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[TensorProto] = (),
    opset: int = OPSET,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "made", list(inputs), list(outputs), initializer=list(weights))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def conv(name: str, source: str, out: int, into: int, kernel: int = 3) -> tuple[onnx.NodeProto, TensorProto]:
    """A convolution that keeps height and width; what it makes is called as it is."""
    pads = [kernel // 2] * 4
    node = helper.make_node("Conv", [source, f"{name}.weight"], [name], name=f"/{name}/Conv", pads=pads)
    return node, random(f"{name}.weight", out, into, kernel, kernel)


def chain(depth: int = 4, batch: int | str = "batch", channels: int = 4) -> onnx.ModelProto:
    """Convolutions and activations, one after another, the first one's output added to the last's."""
    nodes, weights, source = [], [], "image"
    for index in range(depth):
        made, kernel = conv(f"conv{index}", source, channels, 3 if index == 0 else channels)
        nodes += [made, helper.make_node("Relu", [f"conv{index}"], [f"relu{index}"])]
        weights.append(kernel)
        source = f"relu{index}"
    nodes.append(helper.make_node("Add", [source, "relu0"], ["sum"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["sum"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["scores"]))
    return model(nodes, [value("image", [batch, 3, "h", "w"])], [value("scores", [batch, channels])], weights)


def sized(batch: int | str = "batch") -> onnx.ModelProto:
    """An image and two whole numbers beside it, which scale what is made of the image."""
    first, one = conv("first", "image", 4, 3)
    second, two = conv("second", "active", 4, 4)
    nodes = [
        first,
        helper.make_node("Relu", ["first"], ["active"]),
        second,
        helper.make_node("GlobalAveragePool", ["second"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Cast", ["size"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["numbers", "mix"], ["factors"]),
        helper.make_node("Mul", ["features", "factors"], ["scores"]),
    ]
    inputs = [value("size", [batch, 2], TensorProto.INT64), value("image", [batch, 3, 16, 16])]
    return model(nodes, inputs, [value("scores", [batch, 4])], [one, two, random("mix", 2, 4)])


def saved(made: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def ocr_file(name: str) -> Path:
    """Of the wheel rapidocr-onnxruntime, without importing it: it asks for more than its files."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / name
