"""An ONNX file behind the interface of planner.profiling.network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import onnxruntime
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from planner.profile import ProgramFormat
from planner.profiling.network import LoadedPrograms, Network, Part, Running, Value
from planner.profiling.networks.errors import ModelError
from planner.profiling.onnx_files.building import block_model, stage_model
from planner.profiling.onnx_files.ends import NetworkEnds
from planner.profiling.onnx_files.folding import MOST_NUMBERS
from planner.profiling.onnx_files.line import Line
from planner.profiling.onnx_files.running import OnnxChain
from planner.profiling.onnx_files.tensors import array_of, bodies_of, is_external, weight_numbers

MOST_BYTES = (1 << 31) - (1 << 20)
"""Of a file of protobuf."""


class OnnxNetwork(Network):
    """See the module. `line` has the file's own nodes."""

    format: ClassVar[ProgramFormat] = ProgramFormat.ONNX

    def __init__(self, ends: NetworkEnds, line: Line, folder: Path, where: str) -> None:
        """`folder`: of the file, where its weights may lie."""
        self.line = line
        self._folder = folder
        self._where = where
        self.inputs = tuple(ends.inputs.values())
        self.outputs = tuple(ends.outputs.values())
        self.input_values = line.values(ends.inputs)
        self.output_values = line.values(ends.outputs)
        self.operators = line.operators

    @property
    def runtime(self) -> str:
        """See Network."""
        return f"onnxruntime {onnxruntime.__version__}"

    @cached_property
    def digest(self) -> str:
        """See Network."""
        model = self.line.model
        lines = [f"opset {each.domain} {each.version}" for each in model.opset_import]
        lines += [f"input {spec}" for spec in self.inputs] + [f"output {spec}" for spec in self.outputs]
        lines += [_describe_weight(tensor, self._folder) for tensor in model.graph.initializer]
        lines += [_describe(node) for node in model.graph.node]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def program(self, part: Part) -> ModelProto:
        """See Network."""
        return stage_model(self.line, part, self._folder)

    def save(self, part: Part, path: Path) -> None:
        """See Network."""
        self._require_size(part)
        path.write_bytes(_content(block_model(self.line, part, self._folder)))

    def program_bytes(self, part: Part) -> bytes:
        """The part's file, its ends as they travel. Raises ModelError where it would be too large for one."""
        self._require_size(part)
        return _content(self.program(part))

    def _require_size(self, part: Part) -> None:
        size = self.weight_bytes(part.span)
        if size > MOST_BYTES:
            raise ModelError(
                f"{self._where}: the weights of operators {part.span.start} to {part.span.stop - 1} are "
                f"{size / 2**30:.1f} GiB, and one file holds 2: give the model more blocks"
            )

    def chain(self, parts: Sequence[Part], how: Running) -> LoadedPrograms:
        """See Network."""
        return OnnxChain([(self.program_bytes(part), part) for part in parts], how)

    def no_cut(self) -> str:
        """See Network."""
        middle = self.live[(len(self.operators) - 1) // 2]
        stuck = next((value for value in middle if value.spec is None), None)
        if stuck is None:
            return "there is no place where it may be cut"
        return (
            "there is no place where it may be cut: every one is crossed by a value that is no tensor with "
            f"the batch first and other dimensions fixed, such as {self._shown(stuck)} in its middle"
        )

    def _shown(self, value: Value) -> str:
        return f"{value.name!r} [{', '.join(value.shape)}]"


def _content(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def _describe(node: NodeProto) -> str:
    attributes = "; ".join(_describe_attribute(each) for each in sorted(node.attribute, key=lambda a: a.name))
    inside = "".join(f" {{{' | '.join(map(_describe, body.node))}}}" for body in bodies_of(node))
    reads, makes = ", ".join(node.input), ", ".join(node.output)
    return f"{makes} = {node.domain}::{node.op_type}({reads}) {attributes}{inside}"


def _describe_attribute(attribute: AttributeProto) -> str:
    if attribute.type == AttributeProto.TENSOR:
        return f"{attribute.name}={list(attribute.t.dims)}"
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return str(attribute.name)
    return bytes(attribute.SerializeToString(deterministic=True)).hex()


def _describe_weight(tensor: TensorProto, folder: Path) -> str:
    """Of small whole numbers (axes, shapes, pads) what they are: the network is another with others."""
    text = f"weight {tensor.name} {tensor.data_type} {list(tensor.dims)}"
    is_number = tensor.data_type in (TensorProto.INT64, TensorProto.BOOL)
    if is_number and not is_external(tensor) and weight_numbers(tensor) <= MOST_NUMBERS:
        return f"{text} {array_of(tensor, folder).tolist()}"
    return text
