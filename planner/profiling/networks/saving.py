"""torch.export's files as the same bytes on every machine."""

from __future__ import annotations

import io

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from planner.profiling.networks.export import quiet

LOCAL_META = ("stack_trace", "from_node", "source_fn_stack", "torch_fn", "nn_module_stack")


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
