"""Inputs and outputs of one model: names, types, shapes, reshapes, and tensors made of the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import LintedModel
from model_repo_generator.lint.text import Path

TENSORRT = "tensorrt_plan"


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule on tensors."""
    for field, tensors in (("input", model.config.input), ("output", model.config.output)):
        yield from _names(model, field, tensors)
        for index, tensor in enumerate(tensors):
            path: Path = (field, index)
            yield from _tensor(model, path, tensor)
            yield from _tensorrt_only(model, path, tensor)
    for index, tensor in enumerate(model.config.input):
        unknown = model.completable and not tensor.dims
        if tensor.format != triton.ModelInput.FORMAT_NONE and len(tensor.dims) != 3 and not unknown:
            said = f"{triton.ModelInput.Format.Name(tensor.format)} goes with 3 dims, not {list(tensor.dims)}"
            yield model.finding("tensor-format", ("input", index, "format"), said)
    for index, tensor in enumerate(model.config.output):
        yield from _labels(model, ("output", index), tensor)
    yield from _batch_inputs(model)
    yield from _batch_outputs(model)


def type_name(data_type: int) -> str:
    """TYPE_FP32"""
    return str(triton.DataType.Name(data_type))


def _names(model: LintedModel, field: str, tensors: Sequence[Any]) -> Iterator[Finding]:
    if not tensors and not model.is_ensemble and not model.host.auto_complete:
        said = f"the model has no {field}; a client can give or get nothing, and only auto-complete adds one"
        yield model.finding("no-tensors", (field,), said)
    seen: dict[str, int] = {}
    for index, tensor in enumerate(tensors):
        if tensor.name and tensor.name in seen:
            said = f"{field} {tensor.name!r} is there twice ({field}[{seen[tensor.name]}] too)"
            yield model.finding("duplicate-tensor", (field, index, "name"), said)
        seen[tensor.name] = index


def _tensor(model: LintedModel, path: Path, tensor: Any) -> Iterator[Finding]:
    if not tensor.name:
        yield model.finding("tensor-name", path, "a tensor needs a name")
    if model.completable:
        yield from _completed(model, path, tensor)
    elif tensor.data_type == triton.TYPE_INVALID:
        said = f"tensor {tensor.name!r} needs a data_type: one of {_types()}{_hint(model)}"
        yield model.finding("data-type", (*path, "data_type"), said)
    if not tensor.dims and not model.completable:
        said = f"tensor {tensor.name!r} needs dims; [ 1 ] is the smallest{_hint(model)}"
        yield model.finding("dims", (*path, "dims"), said)
    for nth, dim in enumerate(tensor.dims):
        if dim < 1 and dim != -1:
            said = f"{dim} is neither a size of at least 1 nor -1 for any size"
            yield model.finding("dims", (*path, "dims", nth), said)
            return
    if tensor.HasField("reshape") and (tensor.dims or not model.completable):
        fault = _reshape_fault(tensor, model.config.max_batch_size)
        if fault:
            yield model.finding("reshape", (*path, "reshape"), fault)


def _hint(model: LintedModel) -> str:
    if model.host.auto_complete or model.is_ensemble or model.backend in ("", "pytorch", "python"):
        return ""
    return "; give --auto-complete if your servers complete configurations"


def _completed(model: LintedModel, path: Path, tensor: Any) -> Iterator[Finding]:
    lacks = [
        name
        for name, there in (("data_type", tensor.data_type != triton.TYPE_INVALID), ("dims", tensor.dims))
        if not there
    ]
    if lacks:
        said = (
            f"tensor {tensor.name!r} has no {' and no '.join(lacks)}: "
            f"backend {model.backend!r} must complete it, which cannot be checked here"
        )
        yield model.finding("tensor-completed", path, said)


def _reshape_fault(tensor: Any, max_batch_size: int) -> str:
    dims, shape = list(tensor.dims), list(tensor.reshape.shape)
    if not shape and max_batch_size == 0:
        return "an empty shape (a scalar) needs a batch dimension, and max_batch_size is 0"
    if any(dim < 1 and dim != -1 for dim in shape):
        return f"shape {shape} has a size that is neither at least 1 nor -1"
    if _runs(dims) != _runs(shape):
        return f"shape {shape} has not as many elements as dims {dims} (between the -1s too)"
    return ""


def _runs(dims: Sequence[int]) -> list[int]:
    """Elements of each run between variable sizes: [2, 4, -1, 6] has [8, 6]."""
    runs: list[list[int]] = [[]]
    for dim in dims:
        if dim == -1:
            runs.append([])
        else:
            runs[-1].append(dim)
    return [math.prod(run) for run in runs]


def _tensorrt_only(model: LintedModel, path: Path, tensor: Any) -> Iterator[Finding]:
    if model.config.platform == TENSORRT or model.backend == "tensorrt":
        unknown = model.completable and not tensor.dims
        if tensor.is_non_linear_format_io and len(tensor.dims) != 3 and not unknown:
            said = f"a tensor of a non-linear format has 3 dims, not {list(tensor.dims)}"
            yield model.finding("tensor-format", (*path, "is_non_linear_format_io"), said)
        return
    for field in ("is_shape_tensor", "is_non_linear_format_io"):
        if getattr(tensor, field):
            yield model.finding("tensorrt-only", (*path, field), "only TensorRT plans have such tensors")


def _labels(model: LintedModel, path: Path, tensor: Any) -> Iterator[Finding]:
    name = tensor.label_filename
    if name and name not in model.folder.files:
        yield model.finding(
            "label-file", (*path, "label_filename"), f"{name!r} is not in {model.folder.shown}/"
        )


def _batch_inputs(model: LintedModel) -> Iterator[Finding]:
    inputs = {tensor.name for tensor in model.config.input}
    for index, made in enumerate(model.config.batch_input):
        path: Path = ("batch_input", index)
        yield from _sources(model, path, made, inputs)
        if made.data_type not in (triton.TYPE_INT32, triton.TYPE_FP32):
            said = f"{type_name(made.data_type)} is neither TYPE_INT32 nor TYPE_FP32"
            yield model.finding("batch-io", (*path, "data_type"), said)


def _batch_outputs(model: LintedModel) -> Iterator[Finding]:
    inputs = {tensor.name for tensor in model.config.input}
    outputs = {tensor.name for tensor in model.config.output}
    for index, made in enumerate(model.config.batch_output):
        path: Path = ("batch_output", index)
        yield from _sources(model, path, made, inputs)
        for nth, name in enumerate(made.target_name):
            if name not in outputs:
                yield _unlisted(model, (*path, "target_name", nth), name, "output")
            elif name in made.target_name[:nth]:
                yield model.finding("batch-io", (*path, "target_name", nth), f"{name!r} is there twice")


def _sources(model: LintedModel, path: Path, made: Any, inputs: set[str]) -> Iterator[Finding]:
    if len(made.source_input) != 1:
        said = f"takes exactly one source_input, not {len(made.source_input)}"
        yield model.finding("batch-io", (*path, "source_input"), said)
    for nth, name in enumerate(made.source_input):
        if name not in inputs:
            yield _unlisted(model, (*path, "source_input", nth), name, "input")


def _unlisted(model: LintedModel, path: Path, name: str, kind: str) -> Finding:
    if model.completable:
        said = f"{name!r} is not listed: backend {model.backend!r} must add it, which cannot be checked here"
        return model.finding("tensor-completed", path, said)
    return model.finding("batch-io", path, f"{name!r} is not an {kind} of this model")


def _types() -> str:
    return ", ".join(name for name in triton.DataType.keys() if name != "TYPE_INVALID")  # noqa: SIM118
