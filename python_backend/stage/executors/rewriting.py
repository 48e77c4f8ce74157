"""Changes to a program's graph before it is compiled or run: numbers, layout, and what enters and leaves.

Rules
- What enters and leaves keeps its declared type and lies contiguous; conversions are operators of the graph,
  so that a compiler can fuse them and a CUDA graph holds them.
- A module is changed in place: its caller gives it away.
- In half precision every FP32 value is one of that precision, also where the model's author asked for FP32;
  what that costs is measured, not guessed (see planner.profiling.precision).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from planner.execution import Precision
from python_backend.stage.executors.folding import fold_batch_norms
from python_backend.stage.executors.task import Task, torch_dtype

HALF = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}
"""Precisions that are other types than FP32."""
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Types that a half-precision program turns into its own; a network may mix them."""


def rewritten(module: GraphModule, task: Task) -> GraphModule:
    """`module` on the task's device, in its precision and layout."""
    _drop_guards(module)
    fold_batch_norms(module)
    half = HALF.get(task.options.precision)
    if half is not None:
        _narrow(module, half)
    _convert_inputs(module, task, half)
    if half is not None:
        _restore_outputs(module, task)
    _lay_out_weights(module, task.options.channels_last)
    module.graph.lint()
    module.recompile()
    return module.to(task.device)


def _drop_guards(module: GraphModule) -> None:
    """torch.export's checks of input shapes: the stage worker has made them already."""
    for node in list(module.graph.nodes):
        if node.op == "call_module" and str(node.target).endswith("_guards_fn"):
            module.graph.erase_node(node)


def _narrow(module: GraphModule, half: torch.dtype) -> None:
    """Weights, constants and every operator that names a type of its result."""

    def narrowed(value: Any) -> Any:
        return half if isinstance(value, torch.dtype) and value in _FLOATS else value

    module.to(half)
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            _narrow_constant(module, str(node.target), half)
        elif node.op == "call_function":
            node.args = map_aggregate(node.args, narrowed)
            node.kwargs = map_aggregate(node.kwargs, narrowed)
            if _begins_float(node):
                _narrow_result(module, node, half)


def _begins_float(node: Node) -> bool:
    """Whether FP32 begins here unasked: a made tensor, or whole numbers divided."""
    if node.kwargs.get("dtype") is not None or not _is_float(node):
        return False
    return not any(_is_float(given) or given.op == "get_attr" for given in node.all_input_nodes)


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype in _FLOATS


def _narrow_result(module: GraphModule, node: Node, half: torch.dtype) -> None:
    users = list(node.users)
    with module.graph.inserting_after(node):
        converted = _converted(module.graph, node, half, None)
    for user in users:
        user.replace_input_with(node, converted)


def _narrow_constant(module: GraphModule, name: str, half: torch.dtype) -> None:
    """Tensors that are neither parameters nor buffers do not follow `module.to`."""
    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    value = getattr(holder, leaf)
    if isinstance(value, torch.Tensor) and value.dtype in _FLOATS:
        setattr(holder, leaf, value.to(half))


def _convert_inputs(module: GraphModule, task: Task, half: torch.dtype | None) -> None:
    graph = module.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, task.inputs, strict=True):
        is_image = len(spec.shape) == 3 and torch_dtype(spec).is_floating_point
        layout = torch.channels_last if is_image and task.options.channels_last else None
        dtype = half if torch_dtype(spec) in _FLOATS else None
        if layout is None and dtype is None:
            continue
        users = list(node.users)
        with graph.inserting_after(placeholders[-1]):
            converted = _converted(graph, node, dtype, layout)
        for user in users:
            user.replace_input_with(node, converted)


def _restore_outputs(module: GraphModule, task: Task) -> None:
    graph = module.graph
    output = next(node for node in graph.nodes if node.op == "output")
    values = iter(task.outputs)
    with graph.inserting_before(output):

        def restore(value: Any) -> Any:
            if not isinstance(value, Node):
                return value
            return _converted(graph, value, torch_dtype(next(values)), None)

        output.args = map_aggregate(output.args, restore)


def _converted(graph: Any, node: Node, dtype: torch.dtype | None, layout: torch.memory_format | None) -> Node:
    kwargs: dict[str, Any] = {} if layout is None else {"memory_format": layout}
    operator = torch.ops.aten.contiguous.default
    if dtype is not None:
        operator, kwargs["dtype"] = torch.ops.aten._to_copy.default, dtype
    made: Node = graph.call_function(operator, (node,), kwargs)
    return made


def _lay_out_weights(module: GraphModule, channels_last: bool) -> None:
    """Image kernels as the option says; programs are saved with channels last."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
