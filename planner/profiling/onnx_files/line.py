"""An ONNX graph as a line of operators: what each reads and makes, and which nodes belong to no stage alone.

Rules
- `operators` are the nodes that depend on the frame, in the file's own order, which is a topological one.
- What follows from shapes (see inference) is no operator: each stage that reads it makes it again.
- What is computed from weights alone belongs to the stages that read it, and so do its weights.
- Nodes with graphs inside (If, Loop, Scan) are one operator: no cut lies within.
- Of a quantised tensor the whole numbers travel: whoever reads what a DequantizeLinear with constant scales
  makes reads what it is made of, and each stage that needs it makes it again, beside its reader, where an
  engine fuses the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from planner.profile import TensorSpec
from planner.profiling.network import Operator, Value
from planner.profiling.networks.outputs import safe_name
from planner.profiling.onnx_files import costs
from planner.profiling.onnx_files.costs import Sized
from planner.profiling.onnx_files.inference import Inferred, Known
from planner.profiling.onnx_files.reading import given_inputs
from planner.profiling.onnx_files.tensors import (
    TRAVELS_AS,
    bytes_of,
    reads_of,
    weight_numbers,
    weight_size,
)


@dataclass(frozen=True)
class Names:
    """How the network's own ends are called outside: by the file's names."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Line:
    """See the module."""

    def __init__(self, model: ModelProto, inferred: Inferred, inputs: Mapping[str, TensorSpec]) -> None:
        """inputs: the deployment's, by the file's names."""
        self.model = model
        self.inferred = inferred
        self._inputs = inputs
        self.weights: Mapping[str, TensorProto] = {each.name: each for each in model.graph.initializer}
        self.maker: Mapping[str, NodeProto] = {
            name: node for node in model.graph.node for name in node.output if name
        }
        self.unpacked: Mapping[str, NodeProto] = {node.output[0]: node for node in self._unpacking()}
        """By what they make: nodes that make real numbers of whole ones."""
        self.nodes: tuple[NodeProto, ...] = tuple(self._on_the_line())

    @property
    def graph(self) -> GraphProto:
        """The file's."""
        return self.model.graph

    def _on_the_line(self) -> Iterator[NodeProto]:
        """Nodes that depend on a frame, or on the batch size in a way that no stage can make again."""
        carried = {value.name for value in given_inputs(self.graph)}
        numbers = self.inferred.numbers
        batched = {name for name, each in numbers.items() if each.slope is not None}
        used = self._used()
        for node in self.graph.node:
            made = [name for name in node.output if name]
            if all(name in numbers for name in made) or not used.intersection(made):
                continue
            if any(name in carried or name in batched for name in reads_of(node)):
                carried.update(made)
                if made[0] not in self.unpacked:
                    yield node

    def _unpacking(self) -> Iterator[NodeProto]:
        outputs = {value.name for value in self.graph.output}
        dependent = {value.name for value in given_inputs(self.graph)}
        for node in self.graph.node:
            if not dependent.intersection(reads_of(node)):
                continue
            dependent.update(node.output)
            constant = all(name in self.weights for name in node.input[1:] if name)
            if node.op_type == "DequantizeLinear" and constant and node.output[0] not in outputs:
                yield node

    def reads(self, node: NodeProto) -> list[str]:
        """Names of what a node reads as it lives and travels."""
        return [self.unpacked[name].input[0] if name in self.unpacked else name for name in reads_of(node)]

    def _used(self) -> frozenset[str]:
        """Names of what the outputs depend on."""
        used = {value.name for value in self.graph.output}
        for node in reversed(self.graph.node):
            if used.intersection(node.output):
                used.update(reads_of(node))
        return frozenset(used)

    @cached_property
    def carried(self) -> frozenset[str]:
        """Names of inputs and of what operators make."""
        made = (name for node in self.nodes for name in node.output if name)
        return frozenset((*(value.name for value in given_inputs(self.graph)), *made))

    @cached_property
    def operators(self) -> tuple[Operator, ...]:
        """The nodes as data."""
        return tuple(map(self._operator, self.nodes))

    def values(self, names: Iterable[str]) -> tuple[Value, ...]:
        """Tensors by their names."""
        return tuple(found.value for name in names if (found := self.find(name)) is not None)

    def find(self, name: str) -> Sized | None:
        """A tensor; None of one that nothing is known of."""
        if name not in self._found:
            self._found[name] = self._sized(name)
        return self._found[name]

    @cached_property
    def _found(self) -> dict[str, Sized | None]:
        return {}

    def _sized(self, name: str) -> Sized | None:
        weight = self.weights.get(name)
        if weight is not None:
            return self._weight(name, tuple(weight.dims), weight_numbers(weight), weight_size(weight))
        known = self.inferred.known.get(name)
        if known is None and name not in self.carried:
            return None
        is_weight = name in self.maker and name not in self.carried and name not in self.unpacked
        sizes = self._sizes(known)
        numbers = math.prod(sizes) if sizes is not None else 0
        size = bytes_of(known.element_type, numbers) if known is not None else 0
        if is_weight:
            return self._weight(name, sizes or (), numbers, self._bytes_behind(name))
        shown = (
            [str(each) for each in known.sizes] if known is not None and known.sizes is not None else [name]
        )
        value = Value(
            name=name, bytes=size, numbers=numbers, shape=tuple(shown), spec=self._spec(name, known)
        )
        return Sized(value=value, sizes=sizes or ())

    def _weight(self, name: str, sizes: tuple[int, ...], numbers: int, size: int) -> Sized:
        value = Value(
            name=name,
            bytes=size,
            numbers=numbers,
            shape=tuple(map(str, sizes)),
            is_weight=True,
            dimensions=len(sizes),
        )
        return Sized(value=value, sizes=sizes)

    def _bytes_behind(self, name: str) -> int:
        """Of the weights that a value is computed from."""
        return sum(weight_size(self.weights[each]) for each in self.sources(name))

    def sources(self, name: str) -> frozenset[str]:
        """Names of the weights that a value that depends on no frame is computed from."""
        if name in self.weights:
            return frozenset([name])
        node = self.maker.get(name)
        if node is None or name in self.inferred.numbers:
            return frozenset()
        return frozenset().union(*(self.sources(read) for read in reads_of(node)))

    def _sizes(self, known: Known | None) -> tuple[int, ...] | None:
        """For one frame."""
        if known is None or known.sizes is None:
            return None
        return tuple(size.at(1) for size in known.sizes)

    def _spec(self, name: str, known: Known | None) -> TensorSpec | None:
        """How a value travels; None where it cannot: no tensor with the batch first and other sizes fixed."""
        if name in self._inputs:
            return self._inputs[name]
        if name not in self.maker or known is None or not known.sizes:
            return None
        if known.element_type not in TRAVELS_AS:
            return None
        first, *rest = known.sizes
        if first != self.inferred.batch or any(size.slope or size.rest < 1 for size in rest):
            return None
        shape = tuple(size.rest for size in rest) or (1,)
        return TensorSpec(name=self.safe[name], dtype=TRAVELS_AS[known.element_type], shape=shape)

    @cached_property
    def safe(self) -> Mapping[str, str]:
        """Names for Triton, none of them twice, none of them another value's own or an end's."""
        ends = {spec.name for spec in self._inputs.values()}
        taken = {*self.weights, *self.maker, *ends, *(value.name for value in self.graph.output)}
        names: dict[str, str] = {}
        given: set[str] = set(ends)
        outputs = {value.name for value in self.graph.output}
        for name in self.maker:
            wanted = f"t_{safe_name(name)}" if name in outputs else safe_name(name)
            number, chosen = 0, wanted
            while chosen in given or (chosen != name and chosen in taken):
                number += 1
                chosen = f"{wanted}_{number}"
            given.add(chosen)
            names[name] = chosen
        return names

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Of what depends on a frame: own names -> those in files of blocks, the same in all of them."""
        made = {own: name for own, name in self.safe.items() if own in self.carried}
        return {**made, **{own: spec.name for own, spec in self._inputs.items()}}

    def _operator(self, node: NodeProto) -> Operator:
        made = [name for name in node.output if name]
        return Operator(
            name=made[0],
            reads=self.values(name for name in self.reads(node) if name not in self.inferred.numbers),
            makes=self.values(made),
            cost=costs.cost_of(node, self.find),
            kind=costs.kind_of(node, self.find),
            heavy=costs.is_heavy(node),
            joins=costs.joins(node),
            smooth=costs.is_smooth(node),
            columns=costs.columns_of(node, self.find),
            unknown=costs.unknown_name(node),
            place=node.name,
        )
