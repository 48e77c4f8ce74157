"""What an engine makes of torch's operators: the kind of their kernels, and which join the one before."""

from __future__ import annotations

import torch
from torch.fx import Node

from planner.profiling.network import KernelKind
from planner.profiling.networks.costs import (
    CONVOLUTIONS,
    HEAVY,
    PRODUCTS,
    TRANSPOSED,
    VIEWS,
    operator_name,
)
from planner.profiling.networks.counting import is_unknown
from planner.profiling.networks.shapes import size_of

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


def columns_of(node: Node) -> int:
    """Of the matrix that a matrix kernel writes: output channels per group, or the last dimension."""
    value = node.meta.get("val")
    name = operator_name(node)
    if not isinstance(value, torch.Tensor) or value.dim() < 2:
        return 0
    if name in CONVOLUTIONS | TRANSPOSED:
        return size_of(value.shape[1], 1) // (int(node.args[6]) if _grouped(node) else 1)  # type: ignore[arg-type]
    return size_of(value.shape[-1], 1) if name in PRODUCTS | {"linear"} else 0


def kind_of(node: Node) -> KernelKind | None:
    """None for a view."""
    name = operator_name(node)
    if name in VIEWS:
        return None
    if name in CONVOLUTIONS:
        weight = node.args[1]
        per_group = int(weight.meta["val"].shape[1]) if isinstance(weight, Node) else FEW_CHANNELS
        narrow = per_group < FEW_CHANNELS and _grouped(node)
        return KernelKind.DEPTHWISE if narrow else KernelKind.CONVOLUTION
    if name in TRANSPOSED:
        return KernelKind.CONVOLUTION
    if name in HEAVY or is_unknown(node):
        return KernelKind.PRODUCT
    return KernelKind.REDUCTION if name in REDUCTIONS else KernelKind.POINTWISE


def _grouped(node: Node) -> bool:
    return len(node.args) > 6 and isinstance(node.args[6], int) and node.args[6] > 1
