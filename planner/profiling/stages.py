"""Stage programs: blocks [start, end) of a split model as a program of its own, saved as the same bytes.

Rules
- Inputs and outputs are positional tensors in the order of Split.inputs_of and Split.outputs_of, batch first.
- A program holds the weights of its own operators and no others.
- Nothing that differs between machines is saved: no source paths, no example inputs.
"""

from __future__ import annotations

import io
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from planner.plan import BlockRange
from planner.profile import TensorSpec
from planner.profiling.export import EXAMPLE_BATCH, batch_dim, example_batch, quiet
from planner.profiling.graph import ModelGraph
from planner.profiling.network import ModelError
from planner.profiling.split import Split, safe_name

LOCAL_META = ("stack_trace", "from_node", "source_fn_stack", "torch_fn", "nn_module_stack")


def export_stage(split: Split, blocks: BlockRange) -> ExportedProgram:
    """The program of blocks [start, end). Raises ModelError, and ValueError past the last block."""
    module = stage_module(split, blocks)
    examples = tuple(example_batch(tensor, EXAMPLE_BATCH) for tensor in split.inputs_of(blocks))
    dims = tuple({0: batch_dim()} for _ in examples)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, examples, dynamic_shapes=dims)
    except Exception as error:
        raise ModelError(
            f"model {split.model}: blocks [{blocks.start}, {blocks.end}) do not export: "
            f"{type(error).__name__}: {error}"
        ) from error


def save_stage(split: Split, blocks: BlockRange, path: Path) -> None:
    """Export blocks [start, end) and save them at `path`; the same split gives the same bytes."""
    path.write_bytes(program_bytes(export_stage(split, blocks)))


def stage_module(split: Split, blocks: BlockRange) -> GraphModule:
    """Blocks [start, end) as a module with positional tensor inputs and a tuple of outputs."""
    builder = _StageBuilder(split.graph)
    inputs = list(zip(split.live_in(blocks), split.inputs_of(blocks), strict=True))
    for node, spec in inputs:
        builder.add_input(node, safe_name(spec.name))
    for node, spec in inputs:
        if _is_halved(node, spec):
            builder.widen_input(node)
    for node in split.operators(blocks):
        builder.copy(node)
    outputs = zip(split.live_out(blocks), split.outputs_of(blocks), strict=True)
    return builder.finish([(node, _is_halved(node, spec)) for node, spec in outputs])


def _is_halved(node: Node, spec: TensorSpec) -> bool:
    """Whether an FP32 value crosses a cut as FP16."""
    return spec.dtype == "FP16" and node.meta["val"].dtype is torch.float32


def program_bytes(program: ExportedProgram) -> bytes:
    """What torch.export.save writes, less what differs from run to run."""
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                for key in LOCAL_META:
                    node.meta.pop(key, None)
    program._example_inputs = None
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


class _StageBuilder:
    """Copies a range of operators into a new graph; weights and batch sizes are made anew where needed."""

    def __init__(self, graph: ModelGraph) -> None:
        self._source = graph
        self._graph = Graph()
        self._attributes: dict[str, Any] = {}
        self._copied: dict[Node, Node] = {}
        self._first_input: Node | None = None

    def add_input(self, node: Node, name: str) -> None:
        copied = self._graph.placeholder(name)
        self._copied[node] = copied
        self._first_input = self._first_input or copied

    def widen_input(self, node: Node) -> None:
        self._copied[node] = self._cast(self._copied[node], torch.float32)

    def copy(self, node: Node) -> Node:
        if node not in self._copied:
            self._copied[node] = self._make(node)
        return self._copied[node]

    def _make(self, node: Node) -> Node:
        multiple = self._source.batch_multiple(node)
        if multiple is not None:
            return self._batch_size(*multiple)
        if node in self._source.weights:
            return self._weight(node)
        if node.op == "get_attr":
            name = str(node.target)
            self._attributes[name] = _attribute(self._source.program.graph_module, name)
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
        name = self._source.weight_names[node]
        self._attributes[name] = _stored(self._source.weights[node])
        return self._graph.get_attr(name)

    def finish(self, outputs: list[tuple[Node, bool]]) -> GraphModule:
        """outputs: each with whether it leaves as FP16."""
        made = [
            self._cast(self.copy(node), torch.float16) if halved else self.copy(node)
            for node, halved in outputs
        ]
        # Whoever sends an output on may copy its memory as it lies.
        dense = [self._graph.call_function(torch.ops.aten.contiguous.default, (node,)) for node in made]
        self._graph.output(tuple(dense))
        root = torch.nn.Module()
        for name, value in self._attributes.items():
            _attach(root, name, value)
        return GraphModule(root, self._graph)


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


def _attach(root: torch.nn.Module, name: str, value: Any) -> None:
    """Set root.a.b.c = value, as parameter, buffer or module, making the modules on the way."""
    *path, last = name.split(".")
    owner = root
    for part in path:
        if not hasattr(owner, part):
            owner.add_module(part, torch.nn.Module())
        owner = getattr(owner, part)
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        owner.register_buffer(last, value)
    else:
        setattr(owner, last, value)


def _attribute(module: torch.nn.Module, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value
