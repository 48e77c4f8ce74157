"""Which tensors the Triton model of a worker takes and answers with."""

from __future__ import annotations

from collections.abc import Sequence

from planner.manifest import RAGGED_INPUT, SHARED_INPUT, STATUS_OUTPUT, ModelEntry, StageProgram
from planner.profile import TensorSpec

Tensors = tuple[TensorSpec, ...]


def stage_tensors(entry: ModelEntry, program: StageProgram) -> tuple[Tensors, Tensors]:
    """(inputs, outputs) of a stage's workers.

    A stage answers with the model's outputs when it forwards, else with its own; a tensor may be both.
    """
    outputs = merge_outputs(entry.outputs, program.outputs)
    if entry.prepare is not None and any(program is programs[0] for programs in entry.programs):
        return RAGGED_INPUT, (*outputs, STATUS_OUTPUT)
    return (*program.inputs, SHARED_INPUT), outputs


def merge_outputs(final: Sequence[TensorSpec], own: Sequence[TensorSpec]) -> Tensors:
    """Both, each name once."""
    names = {tensor.name for tensor in final}
    return (*final, *(tensor for tensor in own if tensor.name not in names))
