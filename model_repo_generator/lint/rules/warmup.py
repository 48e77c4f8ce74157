"""model_warmup: requests that the server makes for itself while it loads a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import LintedModel
from model_repo_generator.lint.rules.tensors import type_name
from model_repo_generator.lint.text import Path
from planner.profile import DTYPE_BYTES

FOLDER = "warmup"
"""Of the model, where input_data_file is looked for."""


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule on warm-up samples; ensembles have none."""
    if model.is_ensemble:
        return
    for index, sample in enumerate(model.config.model_warmup):
        path: Path = ("model_warmup", index)
        if sample.batch_size == 0:
            yield model.finding("warmup-batch-zero", path, "batch_size is 0: the sample is passed over")
            continue
        yield from _batch(model, path, sample.batch_size)
        yield from _inputs(model, path, sample)


def _batch(model: LintedModel, path: Path, size: int) -> Iterator[Finding]:
    most = max(1, model.config.max_batch_size)
    unknown = model.completable and model.config.max_batch_size == 0
    if size > most and not unknown:
        said = f"{size} is above {most}, the largest batch of this model: the whole server ends (SIGSEGV)"
        yield model.finding("warmup-batch", (*path, "batch_size"), said)


def _inputs(model: LintedModel, path: Path, sample: Any) -> Iterator[Finding]:
    wanted = {tensor.name: tensor for tensor in model.config.input}
    controls = {control.name for control in model.config.sequence_batching.control_input}
    for name, tensor in wanted.items():
        if name not in sample.inputs and not tensor.optional:
            yield model.finding("warmup-input", path, f"has no input {name!r}, which the model needs")
    node = model.tree.at(path)
    keys = [entry[0] for entry in node.entries("inputs")] if node is not None else []
    for name, given in sample.inputs.items():
        here: Path = (*path, "inputs", keys.index(name) if name in keys else 0)
        if name in wanted:
            yield from _against(model, here, name, given, wanted[name])
        elif name not in controls and not model.completable:
            yield model.finding("warmup-input-unknown", here, f"the model has no input {name!r}")
        yield from _data(model, here, name, given)


def _against(model: LintedModel, path: Path, name: str, given: Any, wanted: Any) -> Iterator[Finding]:
    typed = wanted.data_type != triton.TYPE_INVALID or not model.completable
    if given.data_type != wanted.data_type and typed:
        said = f"{name!r} is {type_name(given.data_type)} here and {type_name(wanted.data_type)} in the model"
        yield model.finding("warmup-input", path, said)
    dims, shape = list(given.dims), list(wanted.dims)
    if model.completable and not shape:
        return
    if len(dims) != len(shape) or any(b not in (a, -1) for a, b in zip(dims, shape, strict=True) if a != -1):
        said = f"{name!r} has dims {dims} here and {shape} in the model; the batch is not written here"
        yield model.finding("warmup-input", path, said)


def _data(model: LintedModel, path: Path, name: str, given: Any) -> Iterator[Finding]:
    if -1 in given.dims:
        yield model.finding("warmup-input", path, f"dims of {name!r}: every size must be given, not -1")
        return
    kind = given.WhichOneof("input_data_type")
    if kind is None:
        said = f"{name!r} needs one of zero_data, random_data and input_data_file"
        yield model.finding("warmup-input", path, said)
    if kind != "input_data_file":
        return
    file = f"{FOLDER}/{given.input_data_file}"
    there = model.folder.files.get(file)
    needed = _bytes(given)
    if there is None:
        yield model.finding("warmup-file", path, f"there is no {model.folder.shown}/{file}")
    elif given.data_type != triton.TYPE_STRING and there < needed:
        said = f"{model.folder.shown}/{file} has {there} bytes; {name!r} needs {needed}"
        yield model.finding("warmup-file", path, said)


def _bytes(given: Any) -> int:
    size = DTYPE_BYTES.get(type_name(given.data_type).removeprefix("TYPE_"), 0)
    return size * math.prod(int(dim) for dim in given.dims)
