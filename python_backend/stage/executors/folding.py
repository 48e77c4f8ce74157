"""Folds batch normalisation into the convolution before it: one operator less per pair, as exact as before.

In inference y = (conv(x) - mean) / sqrt(var + eps) * weight + bias is a convolution with other weights. That
is done in FP32, before weights are narrowed, and only where nothing else reads the convolution's result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.operator_schemas import normalize_function

_CONVOLUTION = torch.ops.aten.conv2d.default
_NORM = torch.ops.aten.batch_norm.default


def fold_batch_norms(module: GraphModule) -> int:
    """Change `module` in place; the number of norms folded."""
    folded = 0
    for norm in [node for node in module.graph.nodes if node.target is _NORM]:
        given = _arguments(norm)
        convolution = given["input"]
        if _can_fold(convolution, given):
            _fold(module, convolution, norm, given, folded)
            folded += 1
    if folded:
        module.graph.eliminate_dead_code()
        _drop_unread(module)
    return folded


def _arguments(node: Node) -> dict[str, Any]:
    """The node's arguments by name, defaults included."""
    operator: Any = node.target
    named = normalize_function(operator, node.args, node.kwargs, normalize_to_only_use_kwargs=True)
    return dict(named.kwargs) if named is not None else {}


def _can_fold(convolution: Any, norm: dict[str, Any]) -> bool:
    if not isinstance(convolution, Node) or convolution.target is not _CONVOLUTION or norm["training"]:
        return False
    own = _arguments(convolution)
    weights = [own["weight"], own.get("bias"), norm["running_mean"], norm["running_var"]]
    weights += [norm.get("weight"), norm.get("bias")]
    constant = all(each is None or each.op == "get_attr" for each in weights)
    return constant and norm["running_mean"] is not None and len(convolution.users) == 1


def _fold(module: GraphModule, convolution: Node, norm: Node, given: dict[str, Any], index: int) -> None:
    own = _arguments(convolution)
    mean, variance = _value(module, given["running_mean"]), _value(module, given["running_var"])
    scale = torch.rsqrt(variance + given["eps"])
    if given.get("weight") is not None:
        scale = scale * _value(module, given["weight"])
    kernel = _value(module, own["weight"])
    bias = _value(module, own["bias"]) - mean if own.get("bias") is not None else -mean
    bias = bias * scale
    if given.get("bias") is not None:
        bias = bias + _value(module, given["bias"])
    new = {"weight": kernel * scale.reshape(-1, 1, 1, 1), "bias": bias}
    with module.graph.inserting_before(convolution):
        for name, value in new.items():
            attribute = f"folded_{index}_{name}"
            module.register_parameter(attribute, torch.nn.Parameter(value, requires_grad=False))
            own[name] = module.graph.get_attr(attribute)
        made = module.graph.call_function(_CONVOLUTION, (), own)
    made.meta = dict(norm.meta)
    norm.replace_all_uses_with(made)
    module.graph.erase_node(norm)


def _value(module: GraphModule, node: Node) -> torch.Tensor:
    owner, _, leaf = str(node.target).rpartition(".")
    value: torch.Tensor = getattr(module.get_submodule(owner), leaf)
    return value.detach()


def _drop_unread(module: GraphModule) -> None:
    """Weights that no operator reads any more would still take memory."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    kept = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, _ in kept:
        if name not in read:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
