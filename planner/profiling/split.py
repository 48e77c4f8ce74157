"""Split a network into blocks: which of the places where it may be cut are chosen, what each block costs.

Rules
- The split depends on the network and on stated or nominal speeds, never on a measured time, so every machine
  makes the same one and profiles of many nodes can be merged.
- Tensor names are safe for Triton and the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from planner.blocks import group_layers
from planner.cluster import GpuClass, StatedSpeed
from planner.deployment import ModelSpec
from planner.plan import BlockRange
from planner.profile import TensorSpec
from planner.profiling.estimate import latency_us
from planner.profiling.loading import load
from planner.profiling.network import Cost, Cut, Network, Part, Specs, Value
from planner.profiling.networks.errors import ModelError

NOMINAL_GPU = StatedSpeed(gflop_per_s=20_000, gbyte_per_s=300)
"""Balances the blocks of classes without a stated speed: about an L4 at half of its data sheet."""
NOMINAL_CPU = StatedSpeed(gflop_per_s=50, gbyte_per_s=10)


@dataclass(frozen=True)
class Split:
    """A network and its chosen cuts: cut k lies between blocks k and k + 1.

    lower, upper: every block's time is within these multiples of the average on every class (see
    planner.blocks). half_cuts: FP32 tensors that cross a cut do so as FP16, and stage programs convert them;
    the network's own inputs stay as they are.
    """

    model: str
    network: Network
    cuts: tuple[Cut, ...]
    lower: float
    upper: float
    half_cuts: bool = False

    @property
    def inputs(self) -> Specs:
        """The network's."""
        return self.network.inputs

    @property
    def outputs(self) -> Specs:
        """The network's."""
        return self.network.outputs

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return len(self.cuts) + 1

    def span(self, blocks: BlockRange) -> range:
        """The operators of blocks [start, end), by number. Raises ValueError past the last block."""
        if blocks.end > self.block_count:
            raise ValueError(f"model {self.model}: blocks {blocks} where there are {self.block_count}")
        first = self.cuts[blocks.start - 1].position + 1 if blocks.start else 0
        is_last = blocks.end == self.block_count
        past = len(self.network.operators) if is_last else self.cuts[blocks.end - 1].position + 1
        return range(first, past)

    def part(self, blocks: BlockRange) -> Part:
        """Blocks [start, end) as what becomes a program. Raises ValueError past the last block."""
        return Part(
            span=self.span(blocks),
            takes=self._values(blocks.start) or self.network.input_values,
            gives=self._values(blocks.end) or self.network.output_values,
            inputs=self.inputs_of(blocks),
            outputs=self.outputs_of(blocks),
        )

    def _values(self, block: int) -> tuple[Value, ...]:
        """What lives across the cut before a block; nothing at the ends."""
        return self.cuts[block - 1].values if 0 < block < self.block_count else ()

    def inputs_of(self, blocks: BlockRange) -> Specs:
        """Names and frame shapes of what enters blocks [start, end), in the stage program's order."""
        return self.cut_tensors[blocks.start - 1] if blocks.start else self.inputs

    def outputs_of(self, blocks: BlockRange) -> Specs:
        """Names and frame shapes of what leaves blocks [start, end), in the stage program's order."""
        return self.cut_tensors[blocks.end - 1] if blocks.end < self.block_count else self.outputs

    @cached_property
    def cut_tensors(self) -> tuple[Specs, ...]:
        """The tensors across each cut; one tensor has one name at all its cuts."""
        return tuple(tuple(map(self._travelling, cut.tensors)) for cut in self.cuts)

    def _travelling(self, spec: TensorSpec) -> TensorSpec:
        is_halved = self.half_cuts and spec.dtype == "FP32" and spec not in self.inputs
        return replace(spec, dtype="FP16") if is_halved else spec

    @property
    def cut_bytes(self) -> tuple[int, ...]:
        """Per cut: bytes of a frame across it."""
        return tuple(sum(spec.bytes_per_frame for spec in specs) for specs in self.cut_tensors)

    def cost(self, block: int) -> Cost:
        """Operations and bytes of one block."""
        return self.network.cost(self.span(BlockRange(block, block + 1)))

    def name_of(self, block: int) -> str:
        """First and last module path of the block, or operators' names where there are no modules."""
        return self.network.label(self.span(BlockRange(block, block + 1)))

    @cached_property
    def digest(self) -> str:
        """Identifies network and cuts (not weights, not times); equal for profiles that can be merged."""
        text = f"{self.network.digest} {[cut.position for cut in self.cuts]}{' half' * self.half_cuts}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_model(
    spec: ModelSpec,
    classes: Sequence[GpuClass] = (),
    device: str = "cpu",
    network: torch.nn.Module | None = None,
) -> Split:
    """Load the model's network and group it into about spec.blocks blocks, balanced on `classes`.

    The device 'meta' makes the same split without weights: enough for estimates, not for stage programs.
    `network`: what load_network(spec, device) gave, where the caller has it already.
    Raises ModelError.
    """
    return split_network(spec, load(spec, device, network), classes)


def split_network(spec: ModelSpec, network: Network, classes: Sequence[GpuClass] = ()) -> Split:
    """As split_model, of a network that is there already. Raises ModelError."""
    candidates = network.candidate_cuts
    if spec.blocks > 1 and len(network.operators) > 1 and not network.valid_cuts:
        raise ModelError(
            f"model {spec.name}: {network.no_cut()}; to serve it in one piece, give it blocks: 1"
        )
    layers = _layers(network, candidates)
    times = [
        [latency_us(cost, speed_of(gpu_class), 1) for cost in map(network.cost, layers)]
        for gpu_class in classes or (GpuClass(name="nominal"),)
    ]
    chosen = group_layers(times, [cut.bytes_per_frame for cut in candidates], spec.blocks)
    return Split(
        model=spec.name,
        network=network,
        cuts=tuple(candidates[index] for index in chosen.cuts),
        lower=chosen.lower,
        upper=chosen.upper,
        half_cuts=spec.cut_dtype == "fp16",
    )


def speed_of(gpu_class: GpuClass) -> StatedSpeed:
    """The speed that balances a class's blocks: without overhead, which is per block, not per layer."""
    nominal = NOMINAL_CPU if gpu_class.executor.value == "cpu" else NOMINAL_GPU
    speed = gpu_class.stated or nominal
    return StatedSpeed(gflop_per_s=speed.gflop_per_s, gbyte_per_s=speed.gbyte_per_s)


def _layers(network: Network, candidates: Sequence[Cut]) -> list[range]:
    ends = [cut.position + 1 for cut in candidates] + [len(network.operators)]
    return [range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
