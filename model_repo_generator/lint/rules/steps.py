"""Ensembles against the models of their steps: maps, types, shapes, batches, versions, circles.

Rules
- As in the server, what is said first of a tensor holds: by the ensemble's own inputs and outputs, then
  step by step; all that is said later is compared with it.
- An ensemble one of whose steps is refused is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import LintedModel
from model_repo_generator.lint.rules.ensemble import STEPS
from model_repo_generator.lint.rules.tensors import type_name
from model_repo_generator.lint.text import Path
from model_repo_generator.lint.versions import served_versions


@dataclass(frozen=True)
class _Said:
    """What one model says of a tensor; `writes` where its data comes from there.

    `data_type`, `dims`: None where a backend completes them. `batched`: None where it may do so.
    """

    owner: str
    data_type: int | None
    dims: tuple[int, ...] | None
    batched: bool | None
    writes: bool

    def full(self, batched: bool | None = None) -> tuple[int, ...]:
        """The shape with the batch in front; `batched` holds where the model does not say."""
        dims = self.dims or ()
        return (-1, *dims) if (batched if self.batched is None else self.batched) else dims


def check(
    models: Mapping[str, LintedModel],
    refused: set[str],
    ensembles: Sequence[LintedModel],
    ambiguous: Mapping[str, int],
) -> Iterator[Finding]:
    """Every rule across models, for these ensembles of them.

    `refused`: models with faults of their own; the ensembles found are added. `ambiguous`: names that
    repositories have of which none is the ensembles' own, and how many.
    """
    steps_of = {model.name: _step_names(model) for model in ensembles}
    decoupled = {
        name
        for name, model in models.items()
        if model.config is not None and model.config.model_transaction_policy.decoupled
    }
    for model in _in_order(ensembles, steps_of):
        findings = list(_ensemble(model, models, steps_of, refused, decoupled, ambiguous))
        if any(not finding.effect.loads for finding in findings):
            refused.add(model.name)
        yield from findings


def _step_names(model: LintedModel) -> list[str]:
    return [step.model_name for step in model.config.ensemble_scheduling.step]


def _in_order(ensembles: Sequence[LintedModel], steps_of: Mapping[str, Sequence[str]]) -> list[LintedModel]:
    """Ensembles after those that they use; what is in a circle comes last."""
    done: list[LintedModel] = []
    waiting = list(ensembles)
    while waiting:
        names = {model.name for model in waiting}
        ready = [model for model in waiting if not names.intersection(steps_of[model.name])] or waiting
        done += ready
        waiting = [model for model in waiting if model not in ready]
    return done


def _ensemble(
    model: LintedModel,
    models: Mapping[str, LintedModel],
    steps_of: Mapping[str, Sequence[str]],
    refused: set[str],
    decoupled: set[str],
    ambiguous: Mapping[str, int],
) -> Iterator[Finding]:
    circle = _circle(model.name, steps_of)
    if circle:
        said = f"a circle of ensembles: {' -> '.join(circle)}"
        yield model.finding("ensemble-cycle", STEPS, said)
        return
    tensors = _own_tensors(model)
    for index, step in enumerate(model.config.ensemble_scheduling.step):
        path: Path = (*STEPS, index)
        used = models.get(step.model_name)
        if used is None:
            if step.model_name:
                said = f"there is no model {step.model_name!r} in this repository"
                if step.model_name in ambiguous:
                    said = f"{ambiguous[step.model_name]} repositories have a model {step.model_name!r}"
                yield model.finding("step-model", (*path, "model_name"), said)
        elif used.name in refused:
            said = f"{used.name!r} is not loaded (see its own findings)"
            yield model.finding("step-refused", (*path, "model_name"), said)
        elif used.config is not None:
            yield from _version(model, path, step, used)
            yield from _batch(model, path, used)
            yield from _map_names(model, path, step, used)
            yield from _compare(model, path, step, used, tensors)
    yield from _decoupled(model, decoupled)


def _circle(name: str, steps_of: Mapping[str, Sequence[str]]) -> list[str]:
    """A way from an ensemble over ensembles back to it; empty where there is none."""
    ways = [[name]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for step in steps_of.get(way[-1], ()):
            if step == name:
                return [*way, name]
            if step not in seen:
                seen.add(step)
                ways.append([*way, step])
    return []


def _version(model: LintedModel, path: Path, step: Any, used: LintedModel) -> Iterator[Finding]:
    served = served_versions(used.config, used.folder.versions)
    if step.model_version == -1 or step.model_version in served - {0}:
        return
    has = ", ".join(map(str, sorted(served)))
    unset = "without model_version it is 0; " if step.model_version == 0 else ""
    said = f"{unset}version {step.model_version} of {used.name!r} is not served ({has} is); -1 is the newest"
    yield model.finding("step-version", (*path, "model_version"), said)


def _batch(model: LintedModel, path: Path, used: LintedModel) -> Iterator[Finding]:
    most, own = used.config.max_batch_size, model.config.max_batch_size
    if most != 0 and most < own:
        said = f"max_batch_size {own} of the ensemble is above {most} of {used.name!r}"
        yield model.finding("ensemble-batch", (*path, "model_name"), said)


def _map_names(model: LintedModel, path: Path, step: Any, used: LintedModel) -> Iterator[Finding]:
    inputs = {tensor.name: tensor.optional for tensor in used.config.input}
    outputs = {tensor.name for tensor in used.config.output}
    for field, keys, there in (
        ("input_map", step.input_map, set(inputs)),
        ("output_map", step.output_map, outputs),
    ):
        for key in sorted(set(keys) - there):
            if used.completable:
                said = f"{used.name!r} does not list {key!r}: its backend must add it; cannot be checked here"
                yield model.finding("step-completed", (*path, field), said)
                continue
            said = f"{used.name!r} has no {field.removesuffix('_map')} {key!r}; it has {_listed(there)}"
            yield model.finding("ensemble-tensor", (*path, field), said)
    for name, optional in inputs.items():
        if name not in step.input_map and not optional:
            said = f"input {name!r} of {used.name!r} is not mapped"
            yield model.finding("ensemble-map", (*path, "input_map"), said)


def _own_tensors(model: LintedModel) -> dict[str, _Said]:
    batched = model.config.max_batch_size > 0
    said: dict[str, _Said] = {}
    for tensors, writes in ((model.config.input, True), (model.config.output, False)):
        for tensor in tensors:
            dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            said.setdefault(
                tensor.name, _Said(model.name, tensor.data_type, tuple(dims), batched, writes=writes)
            )
    return said


def _compare(
    model: LintedModel, path: Path, step: Any, used: LintedModel, tensors: dict[str, _Said]
) -> Iterator[Finding]:
    batched = None if used.completable and not used.config.max_batch_size else used.config.max_batch_size > 0
    for field, listed, mapped, writes in (
        ("input_map", used.config.input, step.input_map, False),
        ("output_map", used.config.output, step.output_map, True),
    ):
        for tensor in listed:
            name = mapped.get(tensor.name)
            if name is None:
                continue
            data_type = tensor.data_type or (None if used.completable else triton.TYPE_INVALID)
            dims = None if used.completable and not tensor.dims else tuple(tensor.dims)
            new = _Said(used.name, data_type, dims, batched, writes)
            first = tensors.setdefault(name, new)
            yield from _differences(model, (*path, field), name, first, new)


def _differences(model: LintedModel, path: Path, name: str, first: _Said, new: _Said) -> Iterator[Finding]:
    if None not in (first.data_type, new.data_type) and first.data_type != new.data_type:
        said = (
            f"tensor {name!r} is {type_name(first.data_type or 0)} in {first.owner!r} "
            f"and {type_name(new.data_type or 0)} in {new.owner!r}"
        )
        yield model.finding("ensemble-type", path, said)
    if first.dims is None or new.dims is None:
        return
    one, other = first.full(new.batched), new.full(first.batched)
    shapes = f"tensor {name!r} is {list(one)} in {first.owner!r} and {list(other)} in {new.owner!r}"
    same, same_full = _match(first.dims, new.dims), _match(one, other)
    if None in (first.batched, new.batched):
        # Batched or not: it fits if it may fit either way.
        same_full = (
            same_full
            or _match(first.full(True), new.full(False))
            or _match(first.full(False), new.full(True))
        )
    if not same and not same_full:
        yield model.finding("ensemble-shape", path, f"{shapes} (batch first, -1 is any size)")
    elif not same_full:
        said = f"{shapes}: one has a batch dimension and the other none, so only one frame at a time passes"
        yield model.finding("ensemble-batch-zero", path, said)
    elif _open(model.name, first, new, one, other):
        said = f"{shapes}: the server does not check that what is written fits"
        yield model.finding("ensemble-shape-open", path, said)


def _match(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _open(ensemble: str, first: _Said, new: _Said, one: Sequence[int], other: Sequence[int]) -> bool:
    """A step writes any size where a fixed one is said. Of the ensemble's inputs, requests are checked."""
    return len(one) == len(other) and any(
        writer.writes
        and writer.owner != ensemble
        and not reader.writes
        and any(w == -1 != r for w, r in zip(written, read, strict=True))
        for writer, reader, written, read in ((first, new, one, other), (new, first, other, one))
    )


def _decoupled(model: LintedModel, decoupled: set[str]) -> Iterator[Finding]:
    """Each decoupled step begins a stream of answers of its own; two streams cannot meet."""
    streams: dict[str, int] = {tensor.name: 0 for tensor in model.config.input}
    waiting = list(enumerate(model.config.ensemble_scheduling.step))
    count = 0
    while ready := [(i, s) for i, s in waiting if streams.keys() >= set(s.input_map.values())]:
        for index, step in ready:
            meeting = {streams[tensor] for tensor in step.input_map.values()}
            if len(meeting) > 1:
                said = "its inputs come from different decoupled models, whose answers do not go together"
                yield model.finding("ensemble-decoupled", (*STEPS, index), said)
                return
            stream = meeting.pop() if meeting else 0
            if step.model_name in decoupled:
                count += 1
                stream = count
            streams.update(dict.fromkeys(step.output_map.values(), stream))
        waiting = [item for item in waiting if item not in ready]
    if count:
        decoupled.add(model.name)
    if len({streams[t.name] for t in model.config.output if t.name in streams}) > 1:
        said = "its outputs come from different decoupled models, whose answers do not go together"
        yield model.finding("ensemble-decoupled", ("output",), said)


def _listed(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
