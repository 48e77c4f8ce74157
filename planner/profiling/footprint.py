"""Memory of a block: its weights, and the most that its values take at once."""

from __future__ import annotations

from planner.plan import BlockRange
from planner.profiling.networks.graph import ModelGraph
from planner.profiling.networks.shapes import tensor_bytes
from planner.profiling.split import Split


def weight_bytes(split: Split, block: int) -> int:
    """Bytes of the weights that a block reads, each counted once."""
    graph = split.graph
    used = {arg for node in split.operators(BlockRange(block, block + 1)) for arg in node.all_input_nodes}
    return sum(tensor_bytes(node.meta.get("val")) for node in used if node in graph.stored)


def activation_bytes(split: Split, block: int) -> int:
    """The most bytes of one frame's values alive at once inside a block, its inputs and outputs included."""
    graph: ModelGraph = split.graph
    operators = split.operators(BlockRange(block, block + 1))
    first = graph.operators.index(operators[0])
    peak = 0
    for position, node in enumerate(operators, start=first):
        read = {arg for arg in node.all_input_nodes if arg in graph.carried}
        alive = read | set(graph.live_after(position)) | {node}
        peak = max(peak, sum(tensor_bytes(value.meta.get("val")) for value in alive))
    return peak
