"""Regions of an exported program (torch.no_grad, torch.autocast) made part of the graph around them.

torch.export makes one operator of each region, whose body is another graph: nothing to count, nothing to cut.

Rules
- no_grad and enable_grad change nothing at inference: their bodies are inlined as they are.
- An autocast region of the device that the program was exported on has its casts written out by torch's own
  pass, so stages compute what the network computes.
- A region of another device does nothing to tensors of this one (autocast is per device, on a machine with
  that device too), nor does a region that is switched off with none around it: these are inlined as they are.
  So a machine with a GPU and one without make the same graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

_GRAD = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast


def without_regions(program: ExportedProgram, device: str = "cpu") -> ExportedProgram:
    """The same program, flat; the given one may be changed."""
    changed = False
    while (region := next(_to_inline(program.graph_module, device), None)) is not None:
        _inline(program.graph_module, region)
        changed = True
    if changed:
        program.graph_module.recompile()
    if any(node.target is _AUTOCAST for node in program.graph.nodes):
        flat: ExportedProgram = program.run_decompositions({})
        return flat
    return program


def other_regions(program: ExportedProgram, device: str = "cpu") -> tuple[str, ...]:
    """Autocast regions that do nothing here, as 'autocast("cuda", float16)', each kind once.

    Whether they are switched on is not asked: without a GPU torch switches those of a GPU off.
    """
    found = {
        f'autocast("{node.args[0]}", {str(node.args[1]).removeprefix("torch.")})': None
        for module in program.graph_module.modules()
        if isinstance(module, GraphModule)
        for node in module.graph.nodes
        if node.target is _AUTOCAST and node.args[0] != device
    }
    return tuple(found)


def _to_inline(module: GraphModule, device: str) -> Iterator[Node]:
    for node in module.graph.nodes:
        idle = node.target is _AUTOCAST and (node.args[0] != device or not node.args[2])
        if node.target is _GRAD or idle:
            yield node
        elif node.target is _AUTOCAST:
            _inline_inside(module, node, device)


def _inline_inside(module: GraphModule, region: Node, device: str) -> None:
    """Within a region that stays, only what has no say about precision is inlined."""
    body = _body(module, region)
    for node in list(body.graph.nodes):
        if node.target is _GRAD or (node.target is _AUTOCAST and node.args[0] != device):
            _inline(body, node)
    body.recompile()


def _inline(module: GraphModule, region: Node) -> None:
    """Put a region's body in its place."""
    body = _body(module, region)
    holder = next(arg for arg in region.args if isinstance(arg, Node) and arg.op == "get_attr")
    given = iter(region.args[region.args.index(holder) + 1 :])
    copies: dict[Node, Any] = {}
    results: Any = None
    with module.graph.inserting_before(region):
        for node in body.graph.nodes:
            if node.op == "placeholder":
                copies[node] = next(given)
            elif node.op == "output":
                results = torch.fx.node.map_arg(node.args[0], lambda old: copies[old])
            else:
                copies[node] = _copy(module, body, node, copies)
    _replace(region, results)
    module.graph.erase_node(region)
    if not holder.users:
        module.graph.erase_node(holder)


def _copy(module: GraphModule, body: GraphModule, node: Node, copies: dict[Node, Any]) -> Node:
    copied = module.graph.node_copy(node, lambda old: copies[old])
    if node.op == "get_attr":
        # A body of its own, or a constant: names inside and outside may be the same.
        name = f"{copied.name}_of_region"
        value: Any = body
        for part in str(node.target).split("."):
            value = getattr(value, part)
        setattr(module, name, value)
        copied.target = name
    return copied


def _replace(region: Node, results: Any) -> None:
    """Whoever reads the region's results reads the body's."""
    if isinstance(results, Node):
        region.replace_all_uses_with(results)
        return
    for user in list(region.users):
        user.replace_all_uses_with(results[user.args[1]])
        user.graph.erase_node(user)


def _body(module: GraphModule, region: Node) -> GraphModule:
    holder = next(arg for arg in region.args if isinstance(arg, Node) and arg.op == "get_attr")
    body = module.get_submodule(str(holder.target))
    assert isinstance(body, GraphModule)
    return body
