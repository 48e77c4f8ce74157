"""Joins the programs of blocks into one graph, so that a stage compiles, folds and captures them as one.

Rules
- A block's inputs are what the block before it gives, in order; nothing is converted between them.
- How tensors travel stands at the two ends: one number per frame comes and goes as [batch, 1], a type that
  differs is cast, and what leaves is contiguous, because whoever sends it on may copy its memory.
- Weights of one name and one value are one weight. What depends on no frame (the batch size, a table made
  of constants) is computed once, however many blocks ask for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from planner.profile import TensorSpec
from python_backend.stage.executors.errors import ProgramError
from python_backend.stage.executors.task import torch_dtype

Specs = tuple[TensorSpec, ...]
_GUARDS = "_guards_fn"
"""torch.export's checks of input shapes: the stage worker has made them already."""


def joined(blocks: Iterable[GraphModule], inputs: Specs, outputs: Specs) -> GraphModule:
    """The blocks, first to last, as one module of positional tensors; they are given away.

    inputs, outputs: as they travel, without the batch. Raises ProgramError where ends do not fit.
    """
    made = _Joined()
    values: list[Node] = []
    for number, block in enumerate(blocks):
        placeholders = [node for node in block.graph.nodes if node.op == "placeholder"]
        if number == 0:
            values = made.enter(placeholders, inputs)
        values = made.copy(block, number, placeholders, values)
    return made.leave(values, outputs)


class _Joined:
    """A graph under construction; used once."""

    def __init__(self) -> None:
        self._graph = Graph()
        self._attributes: dict[str, Any] = {}
        self._weights: dict[str, Node] = {}
        self._framed: set[Node] = set()
        """Nodes that depend on a frame."""
        self._known: dict[Hashable, Node] = {}
        """Nodes that depend on no frame, by what they compute."""

    def enter(self, placeholders: Sequence[Node], inputs: Specs) -> list[Node]:
        """The stage's inputs, from how they travel to how they are computed."""
        _require_count("takes", len(placeholders), len(inputs))
        given = [self._graph.placeholder(node.name) for node in placeholders]
        values = []
        for node, value, spec in zip(placeholders, given, inputs, strict=True):
            raw = node.meta["val"]
            value.meta["val"] = raw.to(torch_dtype(spec))
            if raw.dim() == 1:
                value = self._call(torch.ops.aten.squeeze.dim, (value, 1), raw)
            if raw.dtype is not torch_dtype(spec):
                value = self._cast(value, raw.dtype, raw)
            values.append(value)
        self._framed.update((*given, *values))
        return values

    def copy(
        self, block: GraphModule, number: int, placeholders: Sequence[Node], values: Sequence[Node]
    ) -> list[Node]:
        """A block's operators; what it gives."""
        _require_count(f"block {number} of the stage takes", len(placeholders), len(values))
        here: dict[Node, Node] = dict(zip(placeholders, values, strict=True))
        for node in block.graph.nodes:
            if node.op == "output":
                return [here[each] for each in node.args[0]]
            if node.op == "get_attr":
                here[node] = self._weight(block, number, node)
            elif node.op == "call_function":
                here[node] = self._operator(node, here)
            elif node.op != "placeholder" and not str(node.target).endswith(_GUARDS):
                raise ProgramError(f"block {number} of the stage: {node.op} {node.target} is no operator")
        raise ProgramError(f"block {number} of the stage gives nothing")

    def leave(self, values: Sequence[Node], outputs: Specs) -> GraphModule:
        """The stage's outputs, from how they are computed to how they travel; the module."""
        _require_count("gives", len(values), len(outputs))
        leaving = []
        for value, spec in zip(values, outputs, strict=True):
            raw = value.meta["val"]
            if raw.dim() == 1:
                value = self._call(torch.ops.aten.unsqueeze.default, (value, 1), raw)
            if raw.dtype is not torch_dtype(spec):
                value = self._cast(value, torch_dtype(spec), raw)
            leaving.append(self._call(torch.ops.aten.contiguous.default, (value,), raw))
        self._graph.output(tuple(leaving))
        return GraphModule(self._attributes, self._graph)

    def _call(self, operator: Any, arguments: tuple[Any, ...], like: Any, **named: Any) -> Node:
        node = self._graph.call_function(operator, arguments, named)
        node.meta["val"] = like
        return node

    def _cast(self, value: Node, dtype: torch.dtype, like: Any) -> Node:
        return self._call(torch.ops.aten._to_copy.default, (value,), like.to(dtype), dtype=dtype)

    def _operator(self, node: Node, here: Mapping[Node, Node]) -> Node:
        reads = [here[each] for each in node.all_input_nodes]
        if self._framed.intersection(reads) and node.target is not torch.ops.aten.sym_size.int:
            copied = self._graph.node_copy(node, here.__getitem__)
            self._framed.add(copied)
            return copied
        key = self._key(node, here)
        if key is not None and key in self._known:
            return self._known[key]
        copied = self._graph.node_copy(node, here.__getitem__)
        if key is not None:
            self._known[key] = copied
        return copied

    def _key(self, node: Node, here: Mapping[Node, Node]) -> Hashable | None:
        """What a node that depends on no frame computes; None where each makes its own, as of random numbers.

        Dimension 0 of all that depends on a frame is the batch, whatever it is read from.
        """
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            return None
        if node.target is torch.ops.aten.sym_size.int and node.args[1] == 0:
            return "batch" if here[node.all_input_nodes[0]] in self._framed else None
        arguments = torch.fx.node.map_arg((node.args, dict(node.kwargs)), here.__getitem__)
        return (node.target, repr(arguments))

    def _weight(self, block: GraphModule, number: int, node: Node) -> Node:
        name = str(node.target)
        value = _attribute(block, name)
        known = self._weights.get(name)
        if known is not None and _are_same(self._attributes[name], value):
            return known
        if known is not None:
            name = f"block_{number}.{name}"
        self._attributes[name] = value
        made = self._graph.get_attr(name)
        made.meta = dict(node.meta)
        self._weights.setdefault(str(node.target), made)
        return made


def _require_count(said: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ProgramError(f"the program {said} {found} tensors, not {wanted}: generate the repository again")


def _attribute(module: torch.nn.Module, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def _are_same(one: Any, other: Any) -> bool:
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return False
    alike = one.dtype is other.dtype and one.shape == other.shape and one.stride() == other.stride()
    return alike and torch.equal(one, other)
