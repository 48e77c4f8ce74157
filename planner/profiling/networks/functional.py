"""Take writes out of an exported graph: operators that write into an input become ones that make a tensor.

Rules
- The simple case, by far the most common (an activation in place on a fresh feature map), is rewritten here:
  torch's own pass traces the whole network again, which takes longer than the export.
- Anything else (writes through views, into inputs or buffers) is left to torch's pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

MAY_RETURN_ITS_INPUT = frozenset({"dropout", "feature_dropout", "alpha_dropout", "type_as", "getitem"})
"""Operators that may alias their input without saying so in their schema."""


def make_functional(program: ExportedProgram) -> ExportedProgram:
    """The same program without writes; the given one may be changed."""
    writers = [node for node in program.graph.nodes if _writes(node)]
    if not all(_is_simple(node) for node in writers):
        functional: ExportedProgram = program.run_decompositions({})
        return functional
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    for node in writers:
        written = node.args[0]
        node.target = _functional_target(node)
        for user in list(written.users):
            if order[user] > order[node]:
                user.replace_input_with(written, node)
    program.graph_module.recompile()
    return program


def _is_simple(node: Node) -> bool:
    """Whether the node writes only into its first argument, and nothing else sees that tensor's memory."""
    writes = [
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in _schema(node).arguments
    ]
    written = node.args[0] if node.args else None
    return (
        writes[0]
        and not any(writes[1:])
        and isinstance(written, Node)
        and written.op == "call_function"
        and (_writes(written) or not _may_alias(written))
        and not any(_may_alias(user) and not _writes(user) for user in written.users)
        and _functional_target(node) is not None
    )


def _schema(node: Node) -> Any:
    return getattr(node.target, "_schema", None)


def _writes(node: Node) -> bool:
    schema = _schema(node) if node.op == "call_function" else None
    return schema is not None and bool(schema.is_mutable)


def _may_alias(node: Node) -> bool:
    """Whether the result may share memory with an argument (or nothing is known of it)."""
    schema = _schema(node)
    if node.op == "output":
        return False
    if schema is None:
        return True
    name = str(schema.name).rpartition("::")[2]
    return name in MAY_RETURN_ITS_INPUT or any(result.alias_info is not None for result in schema.returns)


def _functional_target(node: Node) -> Any:
    """aten.relu.default for aten.relu_.default; None where there is no such operator."""
    name, overload = (
        str(_schema(node).name).rpartition("::")[2],
        str(_schema(node).overload_name) or "default",
    )
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, overload, None)
