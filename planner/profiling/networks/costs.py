"""What one operator of an exported graph costs: floating point operations and bytes, from shapes alone.

Rules
- Figures are for one frame; activations and operations grow with the batch, weights do not.
- A multiply-add is two operations. Convolution: 2 * outputs * weights per output channel; transposed: 2 *
  inputs * weights per input channel; matrix product: 2 * outputs * inner size; attention: both of its
  products.
- Views move nothing. Every other operator reads its inputs and weights once and writes its outputs once.
- Operators without a formula here are counted by torch's counter, unknown ones by a rule (see counting); of
  torch.cond the dearer branch counts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from planner.profiling.network import Cost, total
from planner.profiling.networks.counting import (
    TORCHS_OWN,
    counted_flops,
    guessed_flops,
    has_bodies,
    is_body,
    is_unknown,
    namespace,
)
from planner.profiling.networks.shapes import elements, size_of, tensor_bytes

# fmt: off
VIEWS = frozenset((
    "_assert_tensor_metadata", "_unsafe_view", "alias", "chunk", "contiguous", "detach", "expand",
    "expand_as", "flatten", "getitem", "lift_fresh_copy", "movedim", "narrow", "numpy_T", "permute",
    "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "sym_size", "t",
    "transpose", "unbind", "unflatten", "unsafe_chunk", "unsafe_split", "unsqueeze", "view", "view_as",
))
# fmt: on
CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d", "convolution", "_convolution"])
TRANSPOSED = frozenset(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"])
PRODUCTS = frozenset(["mm", "bmm", "matmul", "dot", "mv", "addmm", "baddbmm", "addbmm"])
ATTENTION = frozenset(["scaled_dot_product_attention", "flex_attention"])
COUNTED = frozenset(
    ["einsum", "bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu", "cdist", "tensordot", "outer", "inner",
     "chain_matmul", "linalg_multi_dot", "_native_multi_head_attention", "_transformer_encoder_layer_fwd"]
)  # fmt: skip
"""Operators of torch that become products, which torch's counter finds in them."""
HEAVY = CONVOLUTIONS | TRANSPOSED | PRODUCTS | ATTENTION | COUNTED | {"linear"}


def operator_name(node: Node) -> str:
    """'conv2d' for aten.conv2d.default, 'getitem' for operator.getitem, the operation itself for others."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).rpartition("::")[2].removesuffix("_int")
    return str(getattr(target, "__name__", target))


def is_heavy(node: Node) -> bool:
    """Whether a network's time goes into operators of this kind; cuts lie between two of them."""
    return operator_name(node) in HEAVY or (namespace(node) != "" and namespace(node) not in TORCHS_OWN)


def cost_of(node: Node, weights: frozenset[Node]) -> Cost:
    """What `node` costs; arguments in `weights` are parameters, buffers and constants."""
    name = operator_name(node)
    if node.op != "call_function" or name in VIEWS:
        return Cost()
    if has_bodies(node):
        return _dearest_body(node)
    activations = [arg for arg in node.all_input_nodes if arg not in weights]
    return Cost(
        flops=guessed_flops(node, weights) if is_unknown(node) else _flops(node, name),
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
    if name in ATTENTION and len(tensors) > 2:
        return 2 * elements(tensors[0]) * size_of(tensors[1].shape[-2], 1) + 2 * outputs * size_of(
            tensors[1].shape[-2], 1
        )
    if name in COUNTED or namespace(node) not in ("", *TORCHS_OWN):
        return counted_flops(node) or outputs
    return outputs


def _dearest_body(node: Node) -> Cost:
    """The cost of the graph inside that costs most; what is around it only chooses."""
    owner = node.graph.owning_module
    assert owner is not None
    bodies = [owner.get_submodule(str(arg.target)) for arg in node.all_input_nodes if is_body(arg)]
    costs = [
        total(cost_of(inner, frozenset()) for inner in body.graph.nodes)
        for body in bodies
        if isinstance(body, GraphModule)
    ]
    return max(costs, key=lambda cost: (cost.flops, cost.activation_bytes), default=Cost())
