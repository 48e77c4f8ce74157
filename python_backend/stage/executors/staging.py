"""Tensors between host and device. On a CPU nothing is copied; on a GPU page-locked memory may lie between.

Page-locked tensors come from torch's caching host allocator: it takes none back before the copies that use
it are done, so a stage needs no buffers of its own, and outputs stay valid while someone forwards them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from python_backend.stage.executors.task import Tensors
from python_backend.wire.kserve import Array

Allocate = Callable[[torch.Size, torch.dtype], torch.Tensor]


class Staging(Protocol):
    """Both ways of a batch."""

    def to_device(self, array: Array) -> torch.Tensor:
        """One input on the device; an array of the host stays unchanged and must live until the batch is
        done.
        """

    def to_host(self, outputs: Tensors) -> list[Array]:
        """The outputs as arrays of their own, complete."""


class DirectStaging:
    """torch's own copies; none on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def to_device(self, array: Array) -> torch.Tensor:
        """See Staging."""
        return tensor_of(array).to(self._device)

    def to_host(self, outputs: Tensors) -> list[Array]:
        """See Staging."""
        return [output.detach().cpu().contiguous().numpy() for output in outputs]


class PinnedStaging:
    """Through page-locked memory: asynchronous copies at the full speed of the bus, one wait at the end."""

    def __init__(
        self,
        device: torch.device,
        allocate: Allocate | None = None,
        wait: Callable[[], None] | None = None,
    ) -> None:
        self._device = device
        self._allocate = allocate or _page_locked
        self._wait = wait or (lambda: torch.cuda.current_stream(device).synchronize())

    def to_device(self, array: Array) -> torch.Tensor:
        """See Staging."""
        source = tensor_of(array)
        locked = self._allocate(source.shape, source.dtype)
        locked.copy_(source)
        return locked.to(self._device, non_blocking=True)

    def to_host(self, outputs: Tensors) -> list[Array]:
        """See Staging."""
        locked = [self._allocate(output.shape, output.dtype) for output in outputs]
        for target, output in zip(locked, outputs, strict=True):
            target.copy_(output, non_blocking=True)
        self._wait()
        return [target.numpy() for target in locked]


def staging_of(device: torch.device, pinned: bool) -> Staging:
    """The staging of a device."""
    return PinnedStaging(device) if device.type == "cuda" and pinned else DirectStaging(device)


def on_device(staging: Staging, inputs: Sequence[Any], device: torch.device) -> Tensors:
    """Arrays of the host and tensors, of whatever device, as the program's inputs."""
    return tuple(
        value.to(device) if isinstance(value, torch.Tensor) else staging.to_device(value) for value in inputs
    )


def tensor_of(array: Array) -> torch.Tensor:
    """A view of an array, read-only ones too: programs do not write to their inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns that it cannot honour read-only arrays
        return torch.from_numpy(array)


def _page_locked(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=True)
