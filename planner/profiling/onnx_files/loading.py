"""From a model of a deployment to its ONNX network."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto

from planner.deployment import ModelSpec
from planner.profile import TensorSpec
from planner.profiling.networks.errors import ModelError
from planner.profiling.onnx_files.behaviour import require_frame_by_frame
from planner.profiling.onnx_files.ends import NetworkEnds, fixed_batch, match_inputs, match_outputs
from planner.profiling.onnx_files.inference import BATCHES, Inferred, ShapeFault, infer
from planner.profiling.onnx_files.line import Line
from planner.profiling.onnx_files.network import OnnxNetwork
from planner.profiling.onnx_files.reading import read_model
from planner.profiling.smaller import MOST_GFLOP_TO_RUN, shapes_text, smaller_frames


def load_onnx(spec: ModelSpec, inputs: tuple[TensorSpec, ...], file: Path) -> OnnxNetwork:
    """The network in `file`, for the deployment's inputs. Raises ModelError."""
    where = f"model {spec.name}"
    model = read_model(file, where)
    matched = match_inputs(model.graph, inputs, where)
    inferred, outputs = _shaped(spec, model, matched, where)
    line = Line(model, inferred, matched)
    if not line.nodes:
        names = " and ".join(each.name for each in inputs)
        raise ModelError(f"{where}: no operator depends on the input {names}")
    return OnnxNetwork(NetworkEnds(inputs=matched, outputs=outputs), line, file.parent, where)


def input_names(spec: ModelSpec, inputs: tuple[TensorSpec, ...], file: Path) -> tuple[str, ...]:
    """The file's own names of the deployment's inputs, in the deployment's order. Raises ModelError."""
    where = f"model {spec.name}"
    return tuple(match_inputs(read_model(file, where).graph, inputs, where))


def check_onnx(spec: ModelSpec, network: OnnxNetwork, file: Path) -> tuple[str, ...]:
    """Run it on some frames, a large one on smaller ones if the file leaves their sides open; remarks for its
    owner. Raises ModelError where it may not be served.
    """
    one_by_one = set(spec.batch_sizes) == {1}
    gflop = network.cost(network.whole).flops / 1e9
    if gflop <= MOST_GFLOP_TO_RUN:
        require_frame_by_frame(network, file, f"model {spec.name}", one_by_one)
        return ()
    said = f"{gflop:.0f} GFLOP a frame: "
    small = _smaller(spec, network, file, gflop)
    if small is None:
        return (f"{said}not run here, so whether it serves frame by frame was not checked",)
    require_frame_by_frame(small, file, f"model {spec.name}", one_by_one)
    return (f"{said}that it serves frame by frame was seen with frames of {shapes_text(small.inputs)}",)


def _smaller(spec: ModelSpec, network: OnnxNetwork, file: Path, gflop: float) -> OnnxNetwork | None:
    """The same file for smaller frames, or None where it takes no others."""
    for inputs, most in smaller_frames(network.inputs, gflop):
        with contextlib.suppress(ModelError):  # other sizes are no fault
            small = load_onnx(spec, inputs, file)
            if small.cost(small.whole).flops / 1e9 <= most:
                return small
    return None


def _shaped(
    spec: ModelSpec, model: ModelProto, inputs: Mapping[str, TensorSpec], where: str
) -> tuple[Inferred, Mapping[str, TensorSpec]]:
    """Shapes for every batch, or for one frame where the file's batch is 1 and so are all batches served."""
    try:
        return _for(model, inputs, where, BATCHES)
    except ModelError as error:
        fixed = fixed_batch(model.graph)
        if fixed == 1 and set(spec.batch_sizes) == {1}:
            return _for(model, inputs, where, (1,))
        if fixed is None or isinstance(error, ShapeFault):
            _require_one_frame(model, inputs, where)
        if fixed is None:
            raise
        hint = ", or serve it one by one with batch_sizes: [1]" if fixed == 1 else ""
        raise ModelError(f"{error}; the file's batch is fixed at {fixed}{hint}") from error


def _for(
    model: ModelProto, inputs: Mapping[str, TensorSpec], where: str, batches: tuple[int, ...]
) -> tuple[Inferred, Mapping[str, TensorSpec]]:
    try:
        inferred = infer(model, inputs, batches)
    except ShapeFault as fault:
        raise ShapeFault(f"{where}: for a batch of any size, shapes do not fit together: {fault}") from fault
    return inferred, match_outputs(model, inferred, inputs, where)


def _require_one_frame(model: ModelProto, inputs: Mapping[str, TensorSpec], where: str) -> None:
    """Raises ModelError where shapes do not even fit for the batch that the file has."""
    try:
        infer(model, inputs, (fixed_batch(model.graph) or 1,))
    except ShapeFault as fault:
        raise ModelError(f"{where}: shapes do not fit together: {fault}") from fault
