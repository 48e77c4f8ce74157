"""Split an exported model into blocks: where it may be cut, which cuts are chosen, what each block costs.

Rules
- The split depends on the graph and on stated or nominal speeds, never on a measured time, so every machine
  makes the same one and profiles of many nodes can be merged.
- Tensor names are safe for Triton and the same on every machine: the operator's name in the exported graph.
- What travels may be written otherwise than what is computed (see frame_spec); stage programs convert it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from planner.blocks import group_layers
from planner.cluster import GpuClass, StatedSpeed
from planner.deployment import ModelSpec, input_spec
from planner.plan import BlockRange
from planner.profile import TensorSpec
from planner.profiling.estimate import latency_us
from planner.profiling.networks.checked import export_model
from planner.profiling.networks.costs import Cost, cost_of, total
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.export import TRITON_DTYPES
from planner.profiling.networks.graph import Cut, ModelGraph, module_path
from planner.profiling.networks.outputs import output_names

NOMINAL_GPU = StatedSpeed(gflop_per_s=20_000, gbyte_per_s=300)
"""Balances the blocks of classes without a stated speed: about an L4 at half of its data sheet."""
NOMINAL_CPU = StatedSpeed(gflop_per_s=50, gbyte_per_s=10)


@dataclass(frozen=True)
class Split:
    """A model's graph and its chosen cuts: cut k lies between blocks k and k + 1.

    lower, upper: every block's time is within these multiples of the average on every class (see
    planner.blocks). half_cuts: FP32 tensors that cross a cut do so as FP16, and stage programs convert them;
    the model's own input stays as it is.
    """

    model: str
    graph: ModelGraph
    cuts: tuple[Cut, ...]
    lower: float
    upper: float
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    half_cuts: bool = False

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return len(self.cuts) + 1

    def operators(self, blocks: BlockRange) -> tuple[Node, ...]:
        """The operators of blocks [start, end). Raises ValueError past the last block."""
        if blocks.end > self.block_count:
            raise ValueError(f"model {self.model}: blocks {blocks} where there are {self.block_count}")
        first = self.cuts[blocks.start - 1].position + 1 if blocks.start else 0
        past = self.cuts[blocks.end - 1].position + 1 if blocks.end < self.block_count else None
        return self.graph.operators[first:past]

    def live_in(self, blocks: BlockRange) -> tuple[Node, ...]:
        """The values that enter blocks [start, end)."""
        return self.cuts[blocks.start - 1].tensors if blocks.start else (self.graph.input,)

    def live_out(self, blocks: BlockRange) -> tuple[Node, ...]:
        """The values that leave blocks [start, end): a cut's, or the model's outputs."""
        return self.cuts[blocks.end - 1].tensors if blocks.end < self.block_count else self.graph.outputs

    def inputs_of(self, blocks: BlockRange) -> tuple[TensorSpec, ...]:
        """Names and frame shapes of what enters blocks [start, end), in the stage program's order."""
        return self.cut_tensors[blocks.start - 1] if blocks.start else (self.input,)

    def outputs_of(self, blocks: BlockRange) -> tuple[TensorSpec, ...]:
        """Names and frame shapes of what leaves blocks [start, end), in the stage program's order."""
        return self.cut_tensors[blocks.end - 1] if blocks.end < self.block_count else self.outputs

    @cached_property
    def cut_tensors(self) -> tuple[tuple[TensorSpec, ...], ...]:
        """The tensors across each cut; one tensor has one name at all its cuts."""
        taken = {self.input.name, *(output.name for output in self.outputs)}
        return tuple(tuple(self._spec_of(node, taken) for node in cut.tensors) for cut in self.cuts)

    def _spec_of(self, node: Node, taken: set[str]) -> TensorSpec:
        if node is self.graph.input:
            return self.input
        # Operators' names are unique identifiers already.
        spec = frame_spec(f"t_{node.name}" if node.name in taken else node.name, node.meta["val"])
        return replace(spec, dtype="FP16") if self.half_cuts and spec.dtype == "FP32" else spec

    @property
    def cut_bytes(self) -> tuple[int, ...]:
        """Per cut: bytes of a frame across it."""
        return tuple(sum(spec.bytes_per_frame for spec in specs) for specs in self.cut_tensors)

    def cost(self, block: int) -> Cost:
        """Operations and bytes of one block."""
        return total(self._operator_costs(BlockRange(block, block + 1)))

    def _operator_costs(self, blocks: BlockRange) -> list[Cost]:
        weights = self.graph.stored
        return [cost_of(node, weights) for node in self.operators(blocks)]

    def name_of(self, block: int) -> str:
        """First and last module path of the block, or operators' names where there are no modules."""
        operators = self.operators(BlockRange(block, block + 1))
        paths = [path for path in map(module_path, operators) if path] or [node.name for node in operators]
        return paths[0] if paths[0] == paths[-1] else f"{paths[0]}..{paths[-1]}"

    @cached_property
    def digest(self) -> str:
        """Identifies graph and cuts (not weights, not times); equal for profiles that can be merged."""
        text = f"{self.graph.digest} {[cut.position for cut in self.cuts]}{' half' * self.half_cuts}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_model(
    spec: ModelSpec,
    classes: Sequence[GpuClass] = (),
    device: str = "cpu",
    network: torch.nn.Module | None = None,
) -> Split:
    """Export the model and group it into about spec.blocks blocks, balanced on `classes`.

    The device 'meta' makes the same split without weights: enough for estimates, not for stage programs.
    `network`: what load_network(spec, device) gave, where the caller has it already.
    Raises ModelError.
    """
    return split_program(spec, export_model(spec, device, network), classes)


def split_program(spec: ModelSpec, program: ExportedProgram, classes: Sequence[GpuClass] = ()) -> Split:
    """As split_model, of a program that was exported already. Raises ModelError."""
    graph = ModelGraph(program)
    where = f"model {spec.name}"
    if not graph.operators:
        raise ModelError(f"{where}: no operator depends on the input {spec.input.name}")
    outputs = _outputs(graph, spec.input.name, where)
    candidates = graph.candidate_cuts
    if spec.blocks > 1 and len(graph.operators) > 1 and not graph.valid_cuts:
        raise ModelError(f"{where}: {_no_cut(graph)}; to serve it in one piece, give it blocks: 1")
    times = [
        [latency_us(cost, speed_of(gpu_class), 1) for cost in _layer_costs(graph, candidates)]
        for gpu_class in classes or (GpuClass(name="nominal"),)
    ]
    chosen = group_layers(times, [cut.bytes_per_frame for cut in candidates], spec.blocks)
    return Split(
        model=spec.name,
        graph=graph,
        cuts=tuple(candidates[index] for index in chosen.cuts),
        lower=chosen.lower,
        upper=chosen.upper,
        input=input_spec(spec),
        outputs=outputs,
        half_cuts=spec.cut_dtype == "fp16",
    )


def speed_of(gpu_class: GpuClass) -> StatedSpeed:
    """The speed that balances a class's blocks: without overhead, which is per block, not per layer."""
    nominal = NOMINAL_CPU if gpu_class.executor.value == "cpu" else NOMINAL_GPU
    speed = gpu_class.stated or nominal
    return StatedSpeed(gflop_per_s=speed.gflop_per_s, gbyte_per_s=speed.gbyte_per_s)


def frame_spec(name: str, value: torch.Tensor) -> TensorSpec:
    """A (fake) batched tensor as it travels: one number per frame as [1], BF16 (numpy has none) as FP32."""
    dtype = _TRAVELS_AS.get(value.dtype) or TRITON_DTYPES[value.dtype]
    return TensorSpec(name=name, dtype=dtype, shape=tuple(map(int, value.shape[1:])) or (1,))


_TRAVELS_AS = {torch.bfloat16: "FP32"}


def _layer_costs(graph: ModelGraph, candidates: Sequence[Cut]) -> list[Cost]:
    weights = graph.stored
    ends = [cut.position + 1 for cut in candidates] + [len(graph.operators)]
    starts = [0, *ends[:-1]]
    return [
        total(cost_of(node, weights) for node in graph.operators[start:end])
        for start, end in zip(starts, ends, strict=True)
    ]


def _no_cut(graph: ModelGraph) -> str:
    """Why there is no place to cut: what crosses the middle and cannot travel between stages."""
    middle = (len(graph.operators) - 1) // 2
    stuck = next((node for node in graph.live_after(middle) if not graph.crossable(node)), None)
    if stuck is None:
        return "there is no place where it may be cut"
    value = stuck.meta.get("val")
    shape = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
    return (
        f"there is no place where it may be cut: every one is crossed by a value that is no tensor with the "
        f"batch first and other dimensions fixed, such as {stuck.name} ({shape}) in its middle"
    )


def _outputs(graph: ModelGraph, input_name: str, where: str) -> tuple[TensorSpec, ...]:
    kept = [value is not None for value in graph.returned]
    names = output_names(graph.program.call_spec.out_spec, kept, where, input_name)
    for name, node in zip(names, graph.outputs, strict=True):
        if not isinstance(node, Node):
            raise ModelError(
                f"{where}: output {name} is the constant {node!r}: leave it out of what forward returns"
            )
        if not graph.crossable(node):
            value = node.meta.get("val")
            shape = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ModelError(
                f"{where}: output {name} ({node.name}, {shape}) must be a tensor whose first dimension is "
                f"the batch, whose other dimensions are fixed, of one of {', '.join(TRITON_DTYPES.values())}"
            )
    return tuple(frame_spec(name, node.meta["val"]) for name, node in zip(names, graph.outputs, strict=True))
