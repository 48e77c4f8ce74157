"""Floating point operations of operators that no formula of ours covers, and what is said of unknown ones.

Rules
- torch's own counter counts what an operator becomes (an LSTM its products, einsum a batched product) by
  running it on tensors without data, for one frame.
- An operator of another library is counted by the formula that its library registered with torch
  (torch.utils.flop_counter.register_flop_formula). Without one it is unknown.
- An unknown operator counts as a product: each number of its largest weight once, a multiply-add, for every
  position of its largest output; without weights, each number of its output once for each of the last
  dimension of its first input. Too much rather than too little: a block that seems heavy gets a fast GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_aggregate
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from planner.profiling.networks.shapes import elements, size_of

TORCHS_OWN = frozenset(("aten", "prims", "prim"))


def namespace(node: Node) -> str:
    """'aten', 'torchvision', ... of an operator; '' for Python's own functions and higher-order ones."""
    target: Any = node.target
    return str(target.namespace) if isinstance(target, torch._ops.OpOverload) else ""


def full_name(node: Node) -> str:
    """'torchvision::nms', or the plain name of what has no namespace."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name)
    return str(getattr(target, "__name__", target))


def is_unknown(node: Node) -> bool:
    """Whether what the operator costs is not known."""
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return not has_bodies(node) and full_name(node) != "flex_attention"
    own = namespace(node)
    target: Any = node.target
    return bool(own) and own not in TORCHS_OWN and target.overloadpacket not in flop_registry


def is_body(arg: object) -> bool:
    """Whether an argument is a graph of its own."""
    return isinstance(arg, Node) and arg.op == "get_attr" and "val" not in arg.meta


def has_bodies(node: Node) -> bool:
    """Whether the operator chooses among graphs of its own, as torch.cond does."""
    return full_name(node) == "cond" and any(map(is_body, node.args))


def counted_flops(node: Node) -> int:
    """What torch's counter says for one frame; 0 where it says nothing."""
    try:
        args, kwargs = _without_data(node)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            node.target(*args, **kwargs)  # type: ignore[operator]
        return int(counter.get_total_flops())
    except Exception:  # an operator that has no way without data has no count either
        return 0


def guessed_flops(node: Node, weights: frozenset[Node]) -> int:
    """What an unknown operator is taken to need for one frame; see the module."""
    outputs = [value for value in _tensors([node.meta.get("val")]) if value.dim()]
    if not outputs:
        return 0
    largest = max(outputs, key=elements)
    given = [arg for arg in node.all_input_nodes if isinstance(arg.meta.get("val"), torch.Tensor)]
    kernels = [arg.meta["val"] for arg in given if arg in weights and arg.meta["val"].dim() > 1]
    if kernels:
        kernel = max(kernels, key=elements)
        sizes = [size_of(size, 1) for size in largest.shape[1:]]
        channels = [size for size in sizes if size in tuple(map(int, kernel.shape))] or sizes or [1]
        return 2 * elements(kernel) * (elements(largest) // max(*channels, 1))
    activations = [arg.meta["val"] for arg in given if arg not in weights and arg.meta["val"].dim() > 1]
    if len(activations) > 1:
        return 2 * elements(largest) * size_of(activations[0].shape[-1], 1)
    return elements(largest)


def _without_data(node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The node's arguments for one frame, as tensors of the device 'meta'."""

    def plain(value: Any) -> Any:
        if not isinstance(value, Node):
            return value
        return map_aggregate(value.meta.get("val"), _one_frame)

    return map_aggregate(node.args, plain), dict(map_aggregate(dict(node.kwargs), plain))


def _one_frame(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        shape = [size_of(size, 1) for size in value.shape]
        return torch.empty(shape, dtype=value.dtype, device="meta")
    return size_of(value, 1) if isinstance(value, torch.SymInt) else value


def _tensors(values: Iterable[Any]) -> Sequence[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(value)
    return found
