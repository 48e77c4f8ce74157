"""instance_group of one model: kinds, GPUs, counts, names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import LintedModel
from model_repo_generator.lint.rules.tensors import TENSORRT
from model_repo_generator.lint.text import Path

_GROUP = triton.ModelInstanceGroup
_NUMBER = re.compile(r"\s*[+-]?[0-9]+")
_INT_LIMIT = 2**31


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule on instances."""
    names: dict[str, int] = {}
    for index, group in enumerate(model.config.instance_group):
        path: Path = ("instance_group", index)
        if group.name and group.name in names:
            said = f"{group.name!r} names instance_group[{names[group.name]}] too; metrics mix them up"
            yield model.finding("duplicate-instance", (*path, "name"), said)
        names[group.name] = index
        if group.count < 0:
            yield model.finding("instance-count", (*path, "count"), f"{group.count} is taken as the default")
        if group.profile and model.config.platform != TENSORRT and model.backend != "tensorrt":
            yield model.finding("tensorrt-only", (*path, "profile"), "only TensorRT plans have profiles")
        else:
            for nth, profile in enumerate(group.profile):
                yield from _profile(model, (*path, "profile", nth), profile)
        yield from _gpus(model, path, group)


def _profile(model: LintedModel, path: Path, profile: str) -> Iterator[Finding]:
    """The server reads the digits that a text begins with."""
    match = _NUMBER.match(profile)
    if match is None:
        said = f'{profile!r} is no number; a profile is the text of an index, such as "0"'
        yield model.finding("profile", path, said)
        return
    index = int(match.group())
    if not -_INT_LIMIT <= index < _INT_LIMIT:
        said = f"{profile!r} is beyond 32 bits; the server ends"
        yield model.finding("profile-huge", path, said)
    elif index < 0:
        yield model.finding("profile", path, f"{profile!r} is below 0")
    elif str(index) != profile:
        yield model.finding("profile-misread", path, f"{profile!r} is taken for profile {index}")


def _gpus(model: LintedModel, path: Path, group: Any) -> Iterator[Finding]:
    kind, gpus, there = group.kind, list(group.gpus), model.host.gpus
    here: Path = (*path, "gpus")
    name = _GROUP.Kind.Name(kind)
    for nth, gpu in enumerate(gpus):
        if gpu in gpus[:nth]:
            said = f"GPU {gpu} is listed twice: it gets the instances of both"
            yield model.finding("gpu-twice", (*here, nth), said)
    if kind in (_GROUP.KIND_CPU, _GROUP.KIND_MODEL):
        if gpus:
            said = f"{name} takes no gpus, {gpus} are listed"
            yield model.finding("gpus-not-allowed", here, said)
        return
    if there is None:
        wrong = [gpu for gpu in gpus if gpu < 0]
        said = "is below 0"
    else:
        wrong = [gpu for gpu in gpus if not 0 <= gpu < there]
        said = f"is not on a server with {_counted(there)}"
    for gpu in wrong:
        yield model.finding("gpu", (*here, gpus.index(gpu)), f"GPU {gpu} {said}")
    if kind == _GROUP.KIND_GPU and not gpus and there == 0:
        yield model.finding("gpu", (*path, "kind"), "KIND_GPU needs a GPU, and the server has none")


def _counted(gpus: int) -> str:
    return "no GPUs" if gpus == 0 else f"{gpus} GPU{'s' if gpus > 1 else ''} (0 to {gpus - 1})"
