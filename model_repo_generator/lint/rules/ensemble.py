"""An ensemble by itself: its own fields, its steps' maps, and whether every tensor is made and used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import LintedModel, duplicate_keys
from model_repo_generator.lint.text import Path

STEPS: Path = ("ensemble_scheduling", "step")
_NOT_ITS_OWN = ("instance_group", "optimization", "model_warmup")


@dataclass(frozen=True)
class Flow:
    """`made`: tensors that can be written when the ensemble runs, its inputs included."""

    made: frozenset[str]
    written: frozenset[str]
    read: frozenset[str]


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule that needs no other model."""
    if not model.is_ensemble:
        return
    yield from _own_fields(model)
    steps = model.config.ensemble_scheduling.step
    if not steps:
        yield model.finding("ensemble-steps", ("ensemble_scheduling",), "an ensemble needs at least one step")
        return
    for index, step in enumerate(steps):
        yield from _step(model, (*STEPS, index), step)
    yield from _writers(model, steps)
    yield from _tensors(model, flow(model.config))


def flow(config: Any) -> Flow:
    """Where tensors come from and go to. A step runs when all that it reads is there."""
    steps = config.ensemble_scheduling.step
    made = {tensor.name for tensor in config.input}
    waiting = list(steps)
    while ready := [step for step in waiting if made.issuperset(step.input_map.values())]:
        for step in ready:
            made.update(step.output_map.values())
        waiting = [step for step in waiting if step not in ready]
    return Flow(
        made=frozenset(made),
        written=frozenset(tensor for step in steps for tensor in step.output_map.values()),
        read=frozenset(tensor for step in steps for tensor in step.input_map.values()),
    )


def _own_fields(model: LintedModel) -> Iterator[Finding]:
    for name in _NOT_ITS_OWN:
        node = model.tree.all(name)
        if node:
            said = f"an ensemble has no {name}: its steps' models have their own"
            yield model.finding("ensemble-field", (name,), said)


def _step(model: LintedModel, path: Path, step: Any) -> Iterator[Finding]:
    if not step.model_name:
        yield model.finding("ensemble-steps", path, "a step needs a model_name")
    for name in ("input_map", "output_map"):
        if not getattr(step, name):
            yield model.finding("ensemble-map", path, f"a step needs an {name}")
        yield from duplicate_keys(model, path, name)


def _writers(model: LintedModel, steps: Sequence[Any]) -> Iterator[Finding]:
    inputs = {tensor.name for tensor in model.config.input}
    writers: dict[str, int] = {}
    for index, step in enumerate(steps):
        for tensor in sorted(step.output_map.values()):
            path = (*STEPS, index, "output_map")
            if tensor in writers:
                said = f"tensor {tensor!r} is written by step {writers[tensor]} already"
                yield model.finding("ensemble-twice", path, said)
            writers[tensor] = index
            if tensor in inputs:
                said = f"writes tensor {tensor!r}, which is an input of the ensemble"
                yield model.finding("ensemble-input-written", path, said)


def _tensors(model: LintedModel, moves: Flow) -> Iterator[Finding]:
    steps = model.config.ensemble_scheduling.step
    outputs = {tensor.name for tensor in model.config.output}
    for index, tensor in enumerate(model.config.input):
        if tensor.name not in moves.read and tensor.name not in moves.written:
            yield model.finding("ensemble-unused", ("input", index), f"no step reads {tensor.name!r}")
    for index, tensor in enumerate(model.config.output):
        if tensor.name not in moves.made or tensor.name not in moves.read | moves.written:
            said = f"no step that can run writes {tensor.name!r}"
            yield model.finding("ensemble-unmade", ("output", index), said)
    for index, step in enumerate(steps):
        for key, name in sorted(step.input_map.items()):
            if name not in moves.made:
                said = f"{key!r} reads tensor {name!r}, which no step that can run writes"
                yield model.finding("ensemble-unmade", (*STEPS, index, "input_map"), said)
        for key, name in sorted(step.output_map.items()):
            if name not in moves.read and name not in outputs:
                said = f"{key!r} writes tensor {name!r}, which nothing reads; leave it out of the map"
                yield model.finding("ensemble-unused", (*STEPS, index, "output_map"), said)
