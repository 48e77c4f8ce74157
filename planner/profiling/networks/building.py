"""Copies a run of operators of a program into a program of its own, with the weights that they read."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from planner.profile import TensorSpec
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.export import TORCH_DTYPES
from planner.profiling.networks.graph import ModelGraph


class StageBuilder:
    """Copies a range of operators into a new graph; weights and batch sizes are made anew where needed."""

    def __init__(self, graph: ModelGraph) -> None:
        self._source = graph
        self._graph = Graph()
        self._attributes: dict[str, Any] = {}
        self._copied: dict[Node, Node] = {}
        self._first_input: Node | None = None

    def add_input(self, node: Node, name: str) -> None:
        """A value that enters, in the program's order."""
        copied = self._graph.placeholder(name)
        self._copied[node] = copied
        self._first_input = self._first_input or copied

    def convert_input(self, node: Node, spec: TensorSpec) -> None:
        """From how it travels to how it is computed."""
        value = node.meta["val"]
        if value.dim() == 1:
            self._copied[node] = self._graph.call_function(
                torch.ops.aten.squeeze.dim, (self._copied[node], 1)
            )
        if value.dtype is not TORCH_DTYPES[spec.dtype]:
            self._copied[node] = self._cast(self._copied[node], value.dtype)

    def _leaving(self, node: Node, spec: TensorSpec) -> Node:
        """From how it is computed to how it travels, dense: whoever sends it on may copy its memory."""
        value, made = node.meta["val"], self.copy(node)
        if value.dim() == 1:
            made = self._graph.call_function(torch.ops.aten.unsqueeze.default, (made, 1))
        if value.dtype is not TORCH_DTYPES[spec.dtype]:
            made = self._cast(made, TORCH_DTYPES[spec.dtype])
        return self._graph.call_function(torch.ops.aten.contiguous.default, (made,))

    def copy(self, node: Node) -> Node:
        """The node in the new graph, with what it needs."""
        if node not in self._copied:
            self._copied[node] = self._make(node)
        return self._copied[node]

    def _make(self, node: Node) -> Node:
        multiple = self._source.batch_multiple(node)
        if multiple is not None:
            return self._batch_size(*multiple)
        if node in self._source.stored and isinstance(node.meta.get("val"), torch.Tensor):
            return self._weight(node)
        if node.op == "get_attr":
            name = str(node.target)
            self._attributes[name] = self._source.attribute(name)
            return self._graph.get_attr(name)
        copied = self._graph.node_copy(node, self._resolver(node))
        if copied.target is torch.ops.aten.view.default:
            # A tensor that crossed a cut is contiguous, whatever strides the view was traced with.
            copied.target = torch.ops.aten.reshape.default
        return copied

    def _resolver(self, user: Node) -> Callable[[Node], Node]:
        def resolve(node: Node) -> Node:
            if node not in self._copied and node in self._source.carried and node is not user:
                raise ModelError(
                    f"{user.name} reads {node.name}, which does not live across the cut before it"
                )
            return self.copy(node)

        return resolve

    def _cast(self, node: Node, dtype: torch.dtype) -> Node:
        return self._graph.call_function(torch.ops.aten._to_copy.default, (node,), {"dtype": dtype})

    def _batch_size(self, slope: int, rest: int) -> Node:
        if self._first_input is None:
            raise AssertionError("inputs come first")
        value = self._graph.call_function(torch.ops.aten.sym_size.int, (self._first_input, 0))
        if slope != 1:
            value = self._graph.call_function(operator.mul, (value, slope))
        return self._graph.call_function(operator.add, (value, rest)) if rest else value

    def _weight(self, node: Node) -> Node:
        name = self._source.weight_names.get(node, f"derived.{node.name}")
        value = self._source.value_of(node)
        if node in self._source.derived and value.is_floating_point():
            value = torch.nn.Parameter(value, requires_grad=False)
        self._attributes[name] = _stored(value)
        return self._graph.get_attr(name)

    def finish(self, outputs: list[tuple[Node, TensorSpec]]) -> GraphModule:
        """outputs: each with how it travels."""
        return self._module(self._leaving(node, spec) for node, spec in outputs)

    def finish_bare(self, outputs: Iterable[Node]) -> GraphModule:
        """outputs: as they are computed, for a program that is joined with others."""
        return self._module(map(self.copy, outputs))

    def _module(self, outputs: Iterable[Node]) -> GraphModule:
        self._graph.output(tuple(outputs))
        return GraphModule(self._attributes, self._graph)


def _stored(weight: torch.Tensor) -> torch.Tensor:
    """`weight` as a stage keeps it: no part of a larger storage, and image kernels with channels last.

    With channels last torch takes its fast convolutions at batch 1 too: on one CPU thread a ResNet-18 needs
    0.6 of the time. Values and shapes stay the same.
    """
    layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
    stored = weight.detach().clone(memory_format=layout)
    if isinstance(weight, torch.nn.Parameter):
        return torch.nn.Parameter(stored, requires_grad=False)
    return stored
