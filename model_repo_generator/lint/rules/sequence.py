"""Sequence batching of one model: control tensors, implicit states and what these begin with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import LintedModel
from model_repo_generator.lint.rules.batching import preferred
from model_repo_generator.lint.rules.tensors import type_name
from model_repo_generator.lint.text import Path
from planner.profile import DTYPE_BYTES

FOLDER = "initial_state"
"""Of the model, where data_file is looked for."""
SWAPPED_SOURCE = "server issue 8586; open in 2.73"
_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")
_CORRELATION = triton.ModelSequenceBatching.Control.CONTROL_SEQUENCE_CORRID
_CORRELATION_TYPES = (
    triton.TYPE_UINT64,
    triton.TYPE_INT64,
    triton.TYPE_UINT32,
    triton.TYPE_INT32,
    triton.TYPE_STRING,
)


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule on sequence batching."""
    if not model.config.HasField("sequence_batching"):
        return
    batching = model.config.sequence_batching
    path: Path = ("sequence_batching",)
    seen_names: set[str] = set()
    seen_kinds: set[int] = set()
    for index, tensor in enumerate(batching.control_input):
        here: Path = (*path, "control_input", index)
        if not tensor.name or tensor.name in seen_names:
            said = f"{tensor.name!r} is there twice" if tensor.name else "a control tensor needs a name"
            yield model.finding("sequence-control", (*here, "name"), said)
        seen_names.add(tensor.name)
        for nth, control in enumerate(tensor.control):
            fault = _control_fault(control, seen_kinds)
            seen_kinds.add(control.kind)
            if fault:
                yield model.finding("sequence-control", (*here, "control", nth), fault)
    if batching.HasField("oldest"):
        yield from preferred(model, (*path, "oldest"), batching.oldest.preferred_batch_size)
    if batching.HasField("direct") and not 0 <= batching.direct.minimum_slot_utilization <= 1:
        said = f"{batching.direct.minimum_slot_utilization:g} is not between 0 and 1"
        yield model.finding("slot-utilization", (*path, "direct", "minimum_slot_utilization"), said)
    yield from _swapped(model, batching.state)
    for index, state in enumerate(batching.state):
        yield from _initial_state(model, (*path, "state", index), state)


def _control_fault(control: Any, seen: set[int]) -> str:
    kind = triton.ModelSequenceBatching.Control.Kind.Name(control.kind)
    given = [name for name in _VALUES if len(getattr(control, name))]
    if control.kind in seen:
        return f"{kind} is there twice; one tensor carries it"
    if control.kind == _CORRELATION:
        if given:
            return f"{kind} takes a data_type, not {given[0]}"
        if control.data_type not in _CORRELATION_TYPES:
            allowed = ", ".join(triton.DataType.Name(each) for each in _CORRELATION_TYPES)
            return f"{kind}: {triton.DataType.Name(control.data_type)} is not one of {allowed}"
        return ""
    if len(given) != 1:
        return f"{kind} takes exactly one of {', '.join(_VALUES)}, not {len(given)}"
    values = getattr(control, given[0])
    return "" if len(values) == 2 else f"{kind}: {given[0]} has 2 values, not {len(values)}"


def _swapped(model: LintedModel, states: Sequence[Any]) -> Iterator[Finding]:
    """The server pairs inputs and outputs by their places in two sorted lists, not by their states."""
    pairs = {state.output_name: state.input_name for state in states}
    outputs, inputs = sorted(pairs), sorted(pairs.values())
    if len(pairs) != len(states) or len(set(inputs)) != len(inputs):
        return
    for index, state in enumerate(states):
        gets = inputs[outputs.index(state.output_name)]
        if gets != state.input_name:
            said = (
                f"from a sequence's second request on, {state.output_name!r} arrives in {gets!r} instead of "
                f"{state.input_name!r}: Triton pairs states by the order of their names; "
                "choose names whose inputs and outputs sort alike"
            )
            path = ("sequence_batching", "state", index, "output_name")
            yield model.finding("state-swapped", path, said, source=SWAPPED_SOURCE)


def _initial_state(model: LintedModel, path: Path, state: Any) -> Iterator[Finding]:
    several = state.initial_state
    if not several:
        return
    here: Path = (*path, "initial_state")
    if len(several) > 1:
        said = f"state {state.input_name!r} begins with one initial_state, not {len(several)}"
        yield model.finding("initial-state", (*here, 1), said)
        return
    initial = several[0]
    here = (*here, 0)
    for field, fault in _initial_faults(state, initial):
        yield model.finding("initial-state", (*here, field), fault)
    if initial.WhichOneof("state_data") == "data_file":
        yield from _data_file(model, (*here, "data_file"), initial)


def _initial_faults(state: Any, initial: Any) -> Iterator[tuple[str, str]]:
    """(field, fault) of what an initial state says beside its data."""
    if not initial.name:
        yield "name", "an initial_state needs a name"
    if initial.data_type != state.data_type:
        ours, theirs = type_name(initial.data_type), type_name(state.data_type)
        yield "data_type", f"{ours} is not the state's {theirs}"
    dims, wanted = list(initial.dims), list(state.dims)
    if len(dims) != len(wanted):
        yield "dims", f"{dims} has not as many dimensions as the state's {wanted}"
    elif any(dim == -1 for dim in dims):
        yield "dims", f"{dims}: every size must be given; -1 is for the state's own dims"
    elif any(theirs not in (ours, -1) for ours, theirs in zip(dims, wanted, strict=True)):
        yield "dims", f"{dims} does not go with the state's {wanted}"
    if initial.WhichOneof("state_data") is None:
        yield "zero_data", "an initial_state needs zero_data or data_file"


def _data_file(model: LintedModel, path: Path, initial: Any) -> Iterator[Finding]:
    relative = f"{FOLDER}/{initial.data_file.lstrip('/')}"
    shown = f"{model.folder.shown}/{relative}"
    if model.folder.is_folder(relative) and initial.data_file:
        said = f"{shown} is a folder; the server ends when it reads it"
        yield model.finding("initial-state-folder", path, said)
        return
    there = model.folder.size(relative)
    needed = DTYPE_BYTES.get(type_name(initial.data_type).removeprefix("TYPE_"), 0)
    needed *= math.prod(int(dim) for dim in initial.dims)
    if there is None:
        yield model.finding("initial-state-file", path, f"there is no file {shown}")
    elif initial.data_type != triton.TYPE_STRING and there < needed:
        said = f"{shown} has {there} bytes; {initial.name!r} needs {needed}"
        yield model.finding("initial-state-file", path, said)
