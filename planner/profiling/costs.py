"""What one operator of an exported graph costs: floating point operations and bytes, from shapes alone.

Rules
- Figures are for one frame; activations and operations grow with the batch, weights do not.
- A multiply-add is two operations. Convolution: 2 * outputs * weights per output channel; transposed: 2 *
  inputs * weights per input channel; matrix product: 2 * outputs * inner size; attention: both of its
  products.
- Views move nothing. Every other operator reads its inputs and weights once and writes its outputs once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

VIEWS = frozenset(
    [
        "view",
        "reshape",
        "permute",
        "transpose",
        "expand",
        "squeeze",
        "unsqueeze",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "detach",
        "alias",
        "t",
        "flatten",
        "unflatten",
        "getitem",
        "narrow",
        "unbind",
        "movedim",
        "swapaxes",
        "numpy_T",
        "contiguous",
        "lift_fresh_copy",
        "_assert_tensor_metadata",
        "_unsafe_view",
        "sym_size",
        "view_as",
        "expand_as",
        "unsafe_chunk",
        "unsafe_split",
    ]
)
CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d", "convolution", "_convolution"])
TRANSPOSED = frozenset(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"])
PRODUCTS = frozenset(["mm", "bmm", "matmul", "dot", "mv", "addmm", "baddbmm", "addbmm"])
HEAVY = (
    CONVOLUTIONS | TRANSPOSED | PRODUCTS | {"linear", "scaled_dot_product_attention", "einsum", "bilinear"}
)


@dataclass(frozen=True)
class Cost:
    """flops and activation_bytes per frame; weight_bytes however many frames share the batch."""

    flops: int = 0
    activation_bytes: int = 0
    weight_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            flops=self.flops + other.flops,
            activation_bytes=self.activation_bytes + other.activation_bytes,
            weight_bytes=self.weight_bytes + other.weight_bytes,
        )


def total(costs: Iterable[Cost]) -> Cost:
    """Their sum."""
    return sum(costs, Cost())


def operator_name(node: Node) -> str:
    """'conv2d' for aten.conv2d.default, 'getitem' for operator.getitem, the operation itself for others."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).rpartition("::")[2].removesuffix("_int")
    return str(getattr(target, "__name__", target))


def is_heavy(node: Node) -> bool:
    """Whether a network's time goes into operators of this kind; cuts lie between two of them."""
    return operator_name(node) in HEAVY


def elements(value: Any, batch: int = 1) -> int:
    """Elements of a (fake) tensor, or of a list of them, for `batch` frames."""
    if isinstance(value, torch.Tensor):
        return math.prod(size_of(dim, batch) for dim in value.shape)
    if isinstance(value, tuple | list):
        return sum(elements(item, batch) for item in value)
    return 0


def tensor_bytes(value: Any, batch: int = 1) -> int:
    """Bytes of a (fake) tensor, or of a list of them, for `batch` frames."""
    if isinstance(value, torch.Tensor):
        return elements(value, batch) * value.element_size()
    if isinstance(value, tuple | list):
        return sum(tensor_bytes(item, batch) for item in value)
    return 0


def size_of(dim: Any, batch: int) -> int:
    """A dimension with the batch filled in; sizes with other unknowns count as in the example."""
    if not isinstance(dim, torch.SymInt):
        return int(dim)
    expression = dim.node.expr
    filled = expression.subs(dict.fromkeys(expression.free_symbols, batch))
    return int(filled)


def cost_of(node: Node, weights: frozenset[Node]) -> Cost:
    """What `node` costs; arguments in `weights` are parameters, buffers and constants."""
    name = operator_name(node)
    if node.op != "call_function" or name in VIEWS:
        return Cost()
    activations = [arg for arg in node.all_input_nodes if arg not in weights]
    return Cost(
        flops=_flops(node, name),
        activation_bytes=tensor_bytes(node.meta.get("val"))
        + sum(tensor_bytes(arg.meta.get("val")) for arg in activations),
        weight_bytes=sum(tensor_bytes(arg.meta.get("val")) for arg in node.all_input_nodes if arg in weights),
    )


def _flops(node: Node, name: str) -> int:
    outputs = elements(node.meta.get("val"))
    values = [arg.meta.get("val") for arg in node.args if isinstance(arg, Node)]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if name in CONVOLUTIONS and len(tensors) > 1:
        return 2 * outputs * (elements(tensors[1]) // int(tensors[1].shape[0]))
    if name in TRANSPOSED and len(tensors) > 1:
        return 2 * elements(tensors[0]) * (elements(tensors[1]) // int(tensors[1].shape[0]))
    if name == "linear" and tensors:
        return 2 * outputs * size_of(tensors[0].shape[-1], 1)
    if name in PRODUCTS and len(tensors) > 1:
        return 2 * outputs * size_of(tensors[-2].shape[-1], 1)
    if name == "scaled_dot_product_attention" and len(tensors) > 2:
        return 2 * elements(tensors[0]) * size_of(tensors[1].shape[-2], 1) + 2 * outputs * size_of(
            tensors[1].shape[-2], 1
        )
    return outputs
