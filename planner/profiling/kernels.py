"""Operators grouped as an inference engine runs them: what follows a convolution in place is fused into it.

Rules
- A pointwise operator (batch normalisation included) joins the kernel that makes the last of its inputs, if
  shapes agree. Normalisation after a convolution is folded into its weights and costs nothing.
- Matrix kernels end in sums, scales and piecewise linear activations; a smooth one (SiLU, GELU, sigmoid) is a
  kernel after them, which later pointwise operators join: so TensorRT does it in FP32 and TF32 (its layer
  fusion catalog: convolution with ReLU, clip, element-wise sum; with GELU in FP16 and INT8 only).
- A kernel reads each outside value and each weight once, and writes what is read outside.
- Figures are for one frame, weights apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch.fx import Node

from planner.profiling.networks.costs import (
    CONVOLUTIONS,
    HEAVY,
    PRODUCTS,
    TRANSPOSED,
    VIEWS,
    cost_of,
    operator_name,
)
from planner.profiling.networks.counting import is_unknown
from planner.profiling.networks.graph import ModelGraph
from planner.profiling.networks.shapes import elements, size_of, tensor_bytes


class Kind(Enum):
    """What limits a kernel differently."""

    CONVOLUTION = "convolution"
    DEPTHWISE = "depthwise"
    """Convolutions of few channels per group: no matrix product to speak of."""
    PRODUCT = "product"
    """Linear layers, matrix products, attention."""
    REDUCTION = "reduction"
    """Pooling, softmax, layer and group normalisation: several passes over the data."""
    POINTWISE = "pointwise"
    """Whatever reads and writes each value once."""


# fmt: off
POINTWISE = frozenset((
    "add", "sub", "mul", "div", "relu", "relu6", "hardtanh", "silu", "sigmoid", "hardsigmoid", "hardswish",
    "gelu", "tanh", "leaky_relu", "elu", "prelu", "mish", "softplus", "clamp", "batch_norm", "dropout", "neg",
    "exp", "pow", "sqrt", "rsqrt", "square", "_native_batch_norm_legit_no_training", "getitem", "abs",
    "maximum", "minimum",
))
REDUCTIONS = frozenset((
    "softmax", "_softmax", "log_softmax", "layer_norm", "group_norm", "native_layer_norm",
    "native_group_norm", "instance_norm", "mean", "sum", "amax", "amin", "std", "var", "argmax", "topk",
    "cumsum", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
))
SMOOTH = frozenset((
    "silu", "sigmoid", "hardsigmoid", "hardswish", "gelu", "tanh", "elu", "mish", "softplus", "exp", "pow",
    "sqrt", "rsqrt",
))
# fmt: on
FEW_CHANNELS = 8


@dataclass(frozen=True)
class Kernel:
    """One fused kernel; `activation_bytes` and `outputs` (numbers written) per frame.

    `columns`: of matrix kernels, the output channels of a group, which are computed together; else 0.
    """

    kind: Kind
    flops: int
    activation_bytes: int
    weight_bytes: int
    outputs: int
    columns: int = 0


def kernels_of(graph: ModelGraph, operators: Sequence[Node]) -> tuple[Kernel, ...]:
    """The kernels of a run of operators, in the order of their first ones; views make none."""
    groups: list[list[Node]] = []
    group_of: dict[Node, int] = {}
    for node in operators:
        home = _producer(node, group_of)
        if home is None or (operator_name(node) in SMOOTH and _is_matrix(groups[group_of[home]], graph)):
            group_of[node] = len(groups)
            groups.append([node])
        else:
            group_of[node] = group_of[home]
            groups[group_of[home]].append(node)
    kernels = (_kernel(graph, nodes) for nodes in groups)
    return tuple(kernel for kernel in kernels if kernel is not None)


def _producer(node: Node, group_of: dict[Node, int]) -> Node | None:
    """The input whose kernel the node joins, or None: the latest one, as the others are there by then."""
    sources = [source for source in node.all_input_nodes if source in group_of]
    if not sources:
        return None
    latest = max(sources, key=lambda source: group_of[source])
    name = operator_name(node)
    if name in VIEWS or (name in POINTWISE and _shape(latest) == _shape(node)):
        return latest
    return None


def _is_matrix(nodes: Sequence[Node], graph: ModelGraph) -> bool:
    return any(_kind(node, graph) in (Kind.CONVOLUTION, Kind.DEPTHWISE, Kind.PRODUCT) for node in nodes)


def _shape(node: Node) -> tuple[str, ...]:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, tuple | list) else value
    return tuple(map(str, value.shape)) if isinstance(value, torch.Tensor) else ()


def _kernel(graph: ModelGraph, nodes: Sequence[Node]) -> Kernel | None:
    members = set(nodes)
    weights = graph.stored
    kinds = [_kind(node, graph) for node in nodes if operator_name(node) not in VIEWS]
    if not kinds:
        return None
    kind = min(kinds, key=list(Kind).index)
    read = {source for node in nodes for source in node.all_input_nodes if source not in members}
    written = [node for node in nodes if any(user not in members for user in node.users)]
    folded = kind in (Kind.CONVOLUTION, Kind.DEPTHWISE)
    weight_bytes = sum(
        tensor_bytes(source.meta.get("val"))
        for source in read
        if source in weights and not (folded and _is_vector(source))
    )
    return Kernel(
        kind=kind,
        flops=sum(cost_of(node, weights).flops for node in nodes if _kind(node, graph) is kind),
        activation_bytes=sum(tensor_bytes(node.meta.get("val")) for node in written)
        + sum(tensor_bytes(source.meta.get("val")) for source in read if source in graph.carried),
        weight_bytes=weight_bytes,
        outputs=sum(elements(node.meta.get("val")) for node in written),
        columns=max((_columns(node) for node in nodes if _kind(node, graph) is kind), default=0),
    )


def _columns(node: Node) -> int:
    """Of the matrix that a matrix kernel writes: output channels per group, or the last dimension."""
    value = node.meta.get("val")
    name = operator_name(node)
    if not isinstance(value, torch.Tensor) or value.dim() < 2:
        return 0
    if name in CONVOLUTIONS | TRANSPOSED:
        return size_of(value.shape[1], 1) // (int(node.args[6]) if _grouped(node) else 1)  # type: ignore[arg-type]
    return size_of(value.shape[-1], 1) if name in PRODUCTS | {"linear"} else 0


def _kind(node: Node, graph: ModelGraph) -> Kind:
    name = operator_name(node)
    if name in CONVOLUTIONS:
        weight = node.args[1]
        per_group = int(weight.meta["val"].shape[1]) if isinstance(weight, Node) else FEW_CHANNELS
        narrow = per_group < FEW_CHANNELS and _grouped(node)
        return Kind.DEPTHWISE if narrow else Kind.CONVOLUTION
    if name in TRANSPOSED:
        return Kind.CONVOLUTION
    if name in HEAVY or is_unknown(node):
        return Kind.PRODUCT
    return Kind.REDUCTION if name in REDUCTIONS else Kind.POINTWISE


def _grouped(node: Node) -> bool:
    return len(node.args) > 6 and isinstance(node.args[6], int) and node.args[6] > 1


def _is_vector(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dim() <= 1
