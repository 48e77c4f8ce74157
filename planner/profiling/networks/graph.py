"""An exported program as a line of operators.

Rules
- `operators` are the nodes that depend on the frame, in the program's own order. What is computed from
  constants and the batch size alone belongs to no stage: each stage that needs it computes it again.
- What is computed from weights alone (a normalised weight, a transposed one, a table looked up) is a weight
  itself: computed once when a stage is exported, counted in its memory and cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from planner.profiling.networks.export import TRITON_DTYPES
from planner.profiling.networks.shapes import tensor_bytes

SPREAD, SPREAD_FREELY = 4, 16 << 20
"""What is computed from weights is kept if it has at most so many times their bytes, or so few bytes."""


class ModelGraph:
    """A functional program, seen as a line of operators."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        nodes: dict[str, Node] = {node.name: node for node in program.graph.nodes}
        self._nodes = nodes
        self.inputs: tuple[Node, ...] = tuple(
            nodes[str(name)] for name in program.graph_signature.user_inputs
        )
        names = _weight_names(program)
        values: Mapping[str, Any] = {**program.constants, **program.state_dict}
        self.weight_names: Mapping[Node, str] = {nodes[node]: name for node, name in names.items()}
        self.weights: Mapping[Node, torch.Tensor] = {
            nodes[node]: values[name] for node, name in names.items()
        }
        self.batch: sympy.Expr = self.inputs[0].meta["val"].shape[0].node.expr
        carried = self._carried()
        self.operators: tuple[Node, ...] = tuple(
            node for node in program.graph.nodes if node.op == "call_function" and node in carried
        )
        returned: Any = program.graph.output_node().args[0]
        self.returned: tuple[Any, ...] = tuple(returned)
        self.outputs: tuple[Any, ...] = tuple(value for value in returned if value is not None)
        self.carried = carried
        self._values: dict[Node, Any] = {}

    def node(self, name: str) -> Node:
        """The node of this name. Raises KeyError."""
        return self._nodes[name]

    def _carried(self) -> frozenset[Node]:
        """The inputs and every used node whose value depends on them other than through the batch size."""
        carried = set(self.inputs)
        for node in self.program.graph.nodes:
            if node.op != "call_function" or not node.users:
                continue
            if self.batch_multiple(node) is None and any(arg in carried for arg in node.all_input_nodes):
                carried.add(node)
        return frozenset(carried)

    @cached_property
    def derived(self) -> frozenset[Node]:
        """Every node that is computed from weights, once and for all."""
        sources: dict[Node, frozenset[Node]] = {node: frozenset([node]) for node in self.weights}
        constant: set[Node] = set(self.weights)
        for node in self.program.graph.nodes:
            if node.op == "get_attr" and isinstance(node.meta.get("val"), torch.Tensor):
                constant.add(node)
            if node.op != "call_function" or node in self.carried or not _is_fixed(node):
                continue
            if all(arg in constant for arg in node.all_input_nodes):
                read = frozenset().union(*(sources.get(arg, frozenset()) for arg in node.all_input_nodes))
                most = max(SPREAD_FREELY, SPREAD * sum(tensor_bytes(each.meta["val"]) for each in read))
                if tensor_bytes(node.meta.get("val")) <= most:
                    constant.add(node)
                    sources[node] = read
        return frozenset(node for node, read in sources.items() if read and node not in self.weights)

    @cached_property
    def stored(self) -> frozenset[Node]:
        """Weights as stages keep them: the program's own, and what is computed from them alone."""
        return frozenset(self.weights) | self.derived

    def value_of(self, node: Node) -> Any:
        """The value of a stored node, computed when it is first asked for."""
        if node in self.weights:
            return self.weights[node]
        if node not in self._values:
            if node.op == "get_attr":
                self._values[node] = self.attribute(str(node.target))
            else:
                args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), self.value_of)
                target: Any = node.target
                with torch.no_grad():
                    self._values[node] = target(*args, **kwargs)
        return self._values[node]

    def attribute(self, name: str) -> Any:
        """What the program's module has under this dotted name."""
        value: Any = self.program.graph_module
        for part in name.split("."):
            value = getattr(value, part)
        return value

    def batch_multiple(self, node: Node) -> tuple[int, int] | None:
        """(a, b) where the value is the number a * batch + b, which any stage can compute; else None."""
        value = node.meta.get("val")
        if not isinstance(value, torch.SymInt):
            return None
        expression = sympy.expand(value.node.expr)
        slope = expression.coeff(self.batch, 1)
        rest = sympy.expand(expression - slope * self.batch)
        return (int(slope), int(rest)) if slope.is_Integer and rest.is_Integer else None

    def crossable(self, node: Node) -> bool:
        """Whether the value can travel between stages: a tensor, batch first, other dimensions fixed."""
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.dtype not in TRITON_DTYPES or value.dim() == 0:
            return False
        first, *rest = value.shape
        batched = isinstance(first, torch.SymInt) and first.node.expr == self.batch
        return batched and not any(isinstance(size, torch.SymInt) for size in rest) and 0 not in rest

    @cached_property
    def digest(self) -> str:
        """A hash of operators, arguments and shapes, not of weights; the same on any machine."""
        text = "\n".join(_describe(node) for node in self.program.graph.nodes)
        return hashlib.sha256(text.encode()).hexdigest()


def _is_fixed(node: Node) -> bool:
    """Whether a node gives the same each time, and the same for every batch."""
    seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    values = node.meta.get("val")
    values = values if isinstance(values, tuple | list) else [values]
    return not seeded and all(
        isinstance(value, torch.Tensor) and not any(isinstance(size, torch.SymInt) for size in value.shape)
        for value in values
    )


def module_path(node: Node) -> str:
    """The path of the module that the operator belongs to ('features.stage1.unit1'), or ''."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _weight_names(program: ExportedProgram) -> dict[str, str]:
    signature = program.graph_signature
    return {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }


def _describe(node: Node) -> str:
    options = sorted(item for item in node.kwargs.items() if item[0] != "device")
    arguments = ", ".join(map(str, (*node.args, *options)))
    value = node.meta.get("val")
    shape = f"{value.dtype}{list(value.shape)}" if isinstance(value, torch.Tensor) else ""
    return f"{node.name} = {node.op} {node.target if node.op == 'call_function' else ''}({arguments}) {shape}"
