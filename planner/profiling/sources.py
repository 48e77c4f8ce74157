"""Where each GPU class's latencies come from: stated, estimated on request, or measured on this device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from planner.cluster import Executor, GpuClass
from planner.profile import Source
from planner.profiling.gpus import find_gpu
from planner.profiling.networks.errors import ModelError


class ProfileError(ModelError):
    """A GPU class that this machine can neither measure nor look up."""


def sources_of(classes: tuple[GpuClass, ...], estimate: Iterable[str]) -> Mapping[str, Source]:
    """The source of each class; those named in `estimate` are looked up in the catalogue.

    Raises ProfileError.
    """
    wanted = frozenset(estimate)
    names = [gpu_class.name for gpu_class in classes]
    for name in sorted(wanted.difference(names)):
        raise ProfileError(f"estimate: {name}: not one of the deployment's GPU classes {', '.join(names)}")
    sources = {gpu_class.name: _source(gpu_class, wanted) for gpu_class in classes}
    measured = [
        gpu_class.name
        for gpu_class in classes
        if sources[gpu_class.name] is Source.MEASURED and gpu_class.executor is Executor.CUDA
    ]
    if len(measured) > 1:
        raise ProfileError(
            f"gpu_classes: {', '.join(measured)}: this machine has one kind of GPU, "
            f"{torch.cuda.get_device_name()}; profile each class on a node of its own, or have it estimated"
        )
    return sources


def _source(gpu_class: GpuClass, estimate: frozenset[str]) -> Source:
    where = f"gpu_classes: {gpu_class.name}"
    if gpu_class.stated is not None:
        return Source.STATED
    if gpu_class.name in estimate:
        try:
            find_gpu(gpu_class.name)
        except KeyError as error:
            raise ProfileError(f"{where}: {error.args[0]}") from error
        return Source.ESTIMATED
    if gpu_class.executor is Executor.EMULATED:
        raise ProfileError(
            f"{where}: executor 'emulated' computes nothing that could be measured; give 'stated' "
            "(gflop_per_s, "
            "gbyte_per_s) or have the class estimated (--estimate)"
        )
    if gpu_class.executor is Executor.CUDA and not torch.cuda.is_available():
        raise ProfileError(
            f"{where}: no GPU on this machine to measure; profile on a node of that class, give 'stated' "
            "(gflop_per_s, gbyte_per_s), or have the class estimated (--estimate)"
        )
    return Source.MEASURED
