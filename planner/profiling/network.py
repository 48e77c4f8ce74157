"""What profiling, splitting, estimating and exporting need of a network, whatever file it came from.

Rules
- A network is a line of operators; a cut lies between two of them, and what lives across it travels.
- A cut is valid when all that lives across it are tensors with the batch first and every other dimension
  fixed: values that have a TensorSpec.
- A value is counted once per cut, however many later operators read it.
- Figures are for one frame; activations and operations grow with the batch, weights do not.
- Only implementations know torch or ONNX; everything here is data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from planner.execution import ExecutorOptions
from planner.profile import ProgramFormat, TensorSpec

AFTER_ALL = 1 << 60
Specs = tuple[TensorSpec, ...]
Times = tuple[float, ...]


@dataclass(frozen=True)
class Cost:
    """flops (a multiply-add is two) and activation_bytes per frame; weight_bytes however many frames share
    the batch.
    """

    flops: int = 0
    activation_bytes: int = 0
    weight_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            flops=self.flops + other.flops,
            activation_bytes=self.activation_bytes + other.activation_bytes,
            weight_bytes=self.weight_bytes + other.weight_bytes,
        )


def total(costs: Iterable[Cost]) -> Cost:
    """Their sum."""
    return sum(costs, Cost())


class KernelKind(Enum):
    """What limits an operator's kernel."""

    CONVOLUTION = "convolution"
    DEPTHWISE = "depthwise"
    """Convolutions of few channels per group: no matrix product to speak of."""
    PRODUCT = "product"
    """Linear layers, matrix products, attention."""
    REDUCTION = "reduction"
    """Pooling, softmax, layer and group normalisation: several passes over the data."""
    POINTWISE = "pointwise"
    """Whatever reads and writes each value once."""


@dataclass(frozen=True)
class Value:
    """What an operator reads or makes. `name` is its own in the network.

    bytes, numbers: of one frame; of a weight, of all of it. shape: in words, to be compared.
    spec: how it travels between stages; None where it cannot. dimensions: of a weight.
    """

    name: str
    bytes: int
    numbers: int
    shape: tuple[str, ...]
    spec: TensorSpec | None = None
    is_weight: bool = False
    dimensions: int = 0


@dataclass(frozen=True)
class Operator:
    """One operator of the line.

    reads: weights, and values that depend on the frame. kind: None of what moves nothing, a view.
    heavy: whether a network's time goes into such; cuts lie between two of them. joins: whether it reads and
    writes each value once, so that a kernel before it can do it in place; smooth: whether it is a curve that
    matrix kernels do not end in. columns: of the matrix that it writes, output channels per group; else 0.
    unknown: its name, where what it costs is a guess. place: the module that it belongs to, or ''.
    """

    name: str
    reads: tuple[Value, ...]
    makes: tuple[Value, ...]
    cost: Cost
    kind: KernelKind | None = KernelKind.POINTWISE
    heavy: bool = False
    joins: bool = False
    smooth: bool = False
    columns: int = 0
    unknown: str = ""
    place: str = ""


@dataclass(frozen=True)
class Cut:
    """A place where a stage may end: after operator `position`. `values` live across it, in order of
    definition.
    """

    position: int
    values: tuple[Value, ...]

    @cached_property
    def tensors(self) -> Specs:
        """The values as they travel."""
        return tuple(value.spec for value in self.values if value.spec is not None)

    @cached_property
    def bytes_per_frame(self) -> int:
        """Bytes of one frame across the cut."""
        return sum(value.bytes for value in self.values)


@dataclass(frozen=True)
class Part:
    """A run of operators that is to be a program of its own.

    takes, gives: the values at its ends; inputs, outputs: how these travel, in the program's order.
    """

    span: range
    takes: tuple[Value, ...]
    gives: tuple[Value, ...]
    inputs: Specs
    outputs: Specs


class LoadedPrograms(Protocol):
    """Programs on a device, each prepared as a stage would, run one after another on frames of noise."""

    def times(self, batch: int, while_busy: Callable[[], None]) -> Times | None:
        """Microseconds of each program; None where memory does not suffice. `while_busy` is called once, on a
        GPU after all work is launched and before it is waited for.
        """

    def peaks(self, batch: int) -> Sequence[int]:
        """Bytes of the device's memory that each takes beyond what was taken before; empty where unknown."""

    def outputs(self, batch: int) -> Sequence[npt.NDArray[np.float64]]:
        """What the last one gives."""


Prepare = Callable[[Any, Specs, Specs, ExecutorOptions, str, int], Any]
"""(program, inputs, outputs, options, device, largest batch) -> the program as a stage would run it."""


@dataclass(frozen=True)
class Running:
    """How a chain is run. `threads`: of a CPU. `largest`: batch. `prepare` None: plainly, whatever the
    options.
    """

    executor: ExecutorOptions
    device: str
    largest: int
    threads: int = 1
    seed: int = 0
    prepare: Prepare | None = None


class Network(ABC):
    """See the module. Its inputs have the deployment's names, its outputs names that are safe for Triton."""

    format: ClassVar[ProgramFormat]
    inputs: Specs
    outputs: Specs
    input_values: tuple[Value, ...]
    output_values: tuple[Value, ...]
    operators: tuple[Operator, ...]

    @property
    @abstractmethod
    def runtime(self) -> str:
        """What runs its programs here, with its version: 'torch 2.13.0'."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """A hash of operators, arguments and shapes, not of weights; the same on any machine."""

    @abstractmethod
    def program(self, part: Part) -> Any:
        """The part as a program that `Running.prepare` takes."""

    @abstractmethod
    def save(self, part: Part, path: Path) -> None:
        """Write the part's operators as a file that stages join (planner.programs): values at its ends are as
        computed, whatever they travel as. The same part gives the same bytes. Raises ModelError.
        """

    @abstractmethod
    def chain(self, parts: Sequence[Part], how: Running) -> LoadedPrograms:
        """The parts on a device. Raises ModelError."""

    @abstractmethod
    def no_cut(self) -> str:
        """Why there is no place where it may be cut, for who asks for several blocks."""

    @cached_property
    def whole(self) -> range:
        """All operators."""
        return range(len(self.operators))

    @cached_property
    def _last_use(self) -> Mapping[str, int]:
        """By value: the last operator that reads it."""
        last = {value.name: -1 for value in self.input_values}
        for index, operator in enumerate(self.operators):
            last |= {value.name: -1 for value in operator.makes}
            last |= {value.name: index for value in operator.reads if not value.is_weight}
        return last | {value.name: AFTER_ALL for value in self.output_values}

    @cached_property
    def live(self) -> tuple[tuple[Value, ...], ...]:
        """live[k]: values defined up to operator k and read after it, in order of definition."""
        alive = list(self.input_values)
        found = []
        for index, operator in enumerate(self.operators):
            alive = [value for value in (*alive, *operator.makes) if self._last_use[value.name] > index]
            found.append(tuple(alive))
        return tuple(found)

    @cached_property
    def valid_cuts(self) -> tuple[Cut, ...]:
        """Every place where the network may be cut, in order."""
        return tuple(
            Cut(position=position, values=live)
            for position, live in enumerate(self.live[:-1])
            if live and all(value.spec is not None for value in live)
        )

    @cached_property
    def candidate_cuts(self) -> tuple[Cut, ...]:
        """The cheapest cut between each two heavy operators, the last of equals: activations stay in front.

        A network without heavy operators may be cut at every valid place.
        """
        best: dict[int, Cut] = {}
        heavy_before = [0]
        for operator in self.operators:
            heavy_before.append(heavy_before[-1] + operator.heavy)
        if heavy_before[-1] == 0:
            return self.valid_cuts
        for cut in self.valid_cuts:
            segment = heavy_before[cut.position + 1]
            if 0 < segment < heavy_before[-1] and (
                segment not in best or cut.bytes_per_frame <= best[segment].bytes_per_frame
            ):
                best[segment] = cut
        return tuple(best[segment] for segment in sorted(best))

    def cost(self, span: range) -> Cost:
        """Operations and bytes of a run of operators."""
        return total(self.operators[index].cost for index in span)

    def label(self, span: range) -> str:
        """First and last place of the run, or operators' names where there are no places."""
        operators = [self.operators[index] for index in span]
        names = [each.place for each in operators if each.place] or [each.name for each in operators]
        return names[0] if names[0] == names[-1] else f"{names[0]}..{names[-1]}"

    def weight_bytes(self, span: range) -> int:
        """Bytes of the weights that a run of operators reads, each counted once."""
        read = {value for index in span for value in self.operators[index].reads if value.is_weight}
        return sum(value.bytes for value in read)

    def activation_bytes(self, span: range) -> int:
        """The most bytes of one frame's values alive at once inside a run, inputs and outputs included."""
        return max((self._alive_at(index) for index in span), default=0)

    def _alive_at(self, index: int) -> int:
        operator = self.operators[index]
        read = {value for value in operator.reads if not value.is_weight}
        return sum(value.bytes for value in read | {*self.live[index], *operator.makes})
