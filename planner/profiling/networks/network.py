"""A torch program behind the interface of planner.profiling.network.

Rules
- Tensor names are safe for Triton and the same on every machine: the operator's name in the exported graph.
- What travels may be written otherwise than what is computed (see frame_spec); stage programs convert it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from planner.profile import ProgramFormat, TensorSpec
from planner.profiling.network import LoadedPrograms, Network, Operator, Part, Running, Specs, Value
from planner.profiling.networks.building import StageBuilder
from planner.profiling.networks.costs import cost_of, is_heavy, operator_name
from planner.profiling.networks.counting import full_name, is_unknown
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.export import EXAMPLE_BATCH, TRITON_DTYPES, example_batch, export_batched
from planner.profiling.networks.graph import ModelGraph, module_path
from planner.profiling.networks.outputs import output_names, safe_name
from planner.profiling.networks.roles import POINTWISE, SMOOTH, columns_of, kind_of
from planner.profiling.networks.running import TorchChain
from planner.profiling.networks.saving import program_bytes
from planner.profiling.networks.shapes import elements, tensor_bytes

_TRAVELS_AS = {torch.bfloat16: "FP32"}


class TorchNetwork(Network):
    """See the module. `graph` has the program's own nodes."""

    format: ClassVar[ProgramFormat] = ProgramFormat.TORCH

    def __init__(self, program: ExportedProgram, inputs: Specs, where: str) -> None:
        """`inputs`: the deployment's. Raises ModelError."""
        self.graph = ModelGraph(program)
        self._where = where
        if not self.graph.operators:
            names = " and ".join(spec.name for spec in inputs)
            raise ModelError(f"{where}: no operator depends on the input {names}")
        self.inputs = inputs
        self.outputs = self._outputs()
        self._taken = {spec.name for spec in (*inputs, *self.outputs)}
        self._specs = dict(zip(self.graph.inputs, inputs, strict=True))
        self.input_values = tuple(map(self._value, self.graph.inputs))
        self.output_values = tuple(map(self._value, self.graph.outputs))
        self.operators = tuple(map(self._operator, self.graph.operators))

    @property
    def runtime(self) -> str:
        """See Network."""
        return f"torch {torch.__version__}"

    @cached_property
    def digest(self) -> str:
        """See Network."""
        return self.graph.digest

    def module(self, part: Part) -> GraphModule:
        """The part as a module with positional tensor inputs and a tuple of outputs."""
        builder = StageBuilder(self.graph)
        inputs = list(zip(map(self._node, part.takes), part.inputs, strict=True))
        for node, spec in inputs:
            builder.add_input(node, safe_name(spec.name))
        for node, spec in inputs:
            builder.convert_input(node, spec)
        for node in self.graph.operators[part.span.start : part.span.stop]:
            builder.copy(node)
        return builder.finish(list(zip(map(self._node, part.gives), part.outputs, strict=True)))

    def program(self, part: Part) -> Any:
        """See Network."""
        return self.module(part)

    def exported(self, part: Part) -> ExportedProgram:
        """The part as torch.export makes it. Raises ModelError."""
        examples = tuple(example_batch(tensor, EXAMPLE_BATCH) for tensor in part.inputs)
        return self._export(self.module(part), examples, part)

    def block(self, part: Part) -> ExportedProgram:
        """The part's operators alone, to be joined with others (planner.programs). Raises ModelError."""
        builder = StageBuilder(self.graph)
        takes, gives = list(map(self._node, part.takes)), list(map(self._node, part.gives))
        for node, spec in zip(takes, part.inputs, strict=True):
            builder.add_input(node, safe_name(spec.name))
        for node in self.graph.operators[part.span.start : part.span.stop]:
            builder.copy(node)
        examples = tuple(map(_zeros_like, takes))
        return self._export(builder.finish_bare(gives), examples, part)

    def _export(self, module: GraphModule, examples: tuple[torch.Tensor, ...], part: Part) -> ExportedProgram:
        try:
            return export_batched(module, examples)
        except Exception as error:
            raise ModelError(
                f"{self._where}: operators {part.span.start} to {part.span.stop - 1} do not export: "
                f"{type(error).__name__}: {error}"
            ) from error

    def save(self, part: Part, path: Path) -> None:
        """See Network."""
        path.write_bytes(program_bytes(self.block(part)))

    def chain(self, parts: Sequence[Part], how: Running) -> LoadedPrograms:
        """See Network."""
        return TorchChain([(self.module(part), part) for part in parts], self.inputs, how)

    def _node(self, value: Value) -> Node:
        return self.graph.node(value.name)

    def _value(self, node: Node) -> Value:
        value = node.meta.get("val")
        first = value[0] if isinstance(value, tuple | list) and value else value
        return Value(
            name=node.name,
            bytes=tensor_bytes(value),
            numbers=elements(value),
            shape=tuple(map(str, first.shape)) if isinstance(first, torch.Tensor) else (),
            spec=self._spec(node),
            is_weight=node in self.graph.stored,
            dimensions=value.dim() if isinstance(value, torch.Tensor) else 0,
        )

    def _spec(self, node: Node) -> TensorSpec | None:
        if node in self._specs:
            return self._specs[node]
        if node in self.graph.stored or not self.graph.crossable(node):
            return None
        # Operators' names are unique identifiers already.
        return frame_spec(f"t_{node.name}" if node.name in self._taken else node.name, node.meta["val"])

    def _operator(self, node: Node) -> Operator:
        graph = self.graph
        read = (arg for arg in node.all_input_nodes if arg in graph.carried or arg in graph.stored)
        return Operator(
            name=node.name,
            reads=tuple(map(self._value, read)),
            makes=(self._value(node),),
            cost=cost_of(node, graph.stored),
            kind=kind_of(node),
            heavy=is_heavy(node),
            joins=operator_name(node) in POINTWISE,
            smooth=operator_name(node) in SMOOTH,
            columns=columns_of(node),
            unknown=full_name(node) if is_unknown(node) else "",
            place=module_path(node),
        )

    def _outputs(self) -> Specs:
        graph = self.graph
        kept = [value is not None for value in graph.returned]
        names = output_names(graph.program.call_spec.out_spec, kept, self._where, self._input_names())
        for name, node in zip(names, graph.outputs, strict=True):
            self._require_output(name, node)
        return tuple(
            frame_spec(name, node.meta["val"]) for name, node in zip(names, graph.outputs, strict=True)
        )

    def _input_names(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.inputs)

    def _require_output(self, name: str, node: Any) -> None:
        if not isinstance(node, Node):
            raise ModelError(
                f"{self._where}: output {name} is the constant {node!r}: leave it out of what forward returns"
            )
        if not self.graph.crossable(node):
            value = node.meta.get("val")
            found = (
                f"{value.dtype} {list(value.shape)}"
                if isinstance(value, torch.Tensor)
                else type(value).__name__
            )
            raise ModelError(
                f"{self._where}: output {name} ({node.name}, {found}) must be a tensor whose first dimension "
                "is the batch, whose other dimensions are fixed, of one of "
                f"{', '.join(TRITON_DTYPES.values())}"
            )

    def no_cut(self) -> str:
        """See Network."""
        stuck = next(self._stuck(), None)
        if stuck is None:
            return "there is no place where it may be cut"
        value = stuck.meta.get("val")
        shape = type(value).__name__
        if isinstance(value, torch.Tensor):
            shape = f"{value.dtype} {list(value.shape)}"
        return (
            "there is no place where it may be cut: every one is crossed by a value that is no tensor with "
            f"the batch first and other dimensions fixed, such as {stuck.name} ({shape}) in its middle"
        )

    def _stuck(self) -> Iterator[Node]:
        """What crosses the middle and cannot travel."""
        middle = (len(self.operators) - 1) // 2
        return (self._node(value) for value in self.live[middle] if value.spec is None)


def _zeros_like(node: Node) -> torch.Tensor:
    """A value of EXAMPLE_BATCH frames as it is computed."""
    value = node.meta["val"]
    return torch.zeros((EXAMPLE_BATCH, *map(int, value.shape[1:])), dtype=value.dtype)


def frame_spec(name: str, value: torch.Tensor) -> TensorSpec:
    """A (fake) batched tensor as it travels: one number per frame as [1], BF16 (numpy has none) as FP32."""
    dtype = _TRAVELS_AS.get(value.dtype) or TRITON_DTYPES[value.dtype]
    return TensorSpec(name=name, dtype=dtype, shape=tuple(map(int, value.shape[1:])) or (1,))
