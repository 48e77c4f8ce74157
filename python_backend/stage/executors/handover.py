"""Tensors that pass from stage to stage within one Triton server without leaving their device: DLPack.

The Python backend hands a stub GPU memory of the server by CUDA IPC, and copies a given tensor into such
memory, device to device, while the response is sent (README, "Interoperability and GPU Support"; pb_memory.cc
and response_sender.cc of the 24.10 release).

Rules
- What is taken is copied at once, on its device: its memory is the server's and goes with the request. On a
  stream of its own, because the device's main stream may be busy with a whole batch.
- What is given is complete and contiguous; from_dlpack refuses anything else.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from python_backend.stage.executors.task import Tensors


def taken(tensor: Any) -> torch.Tensor:
    """A copy, on the same device, of a tensor of Triton's: of anything that has to_dlpack()."""
    view: torch.Tensor = torch.utils.dlpack.from_dlpack(tensor.to_dlpack())
    if view.device.type != "cuda":
        return view.clone()
    stream = _copy_stream(view.device)
    with torch.cuda.stream(stream):
        copy = view.clone()
    stream.synchronize()
    copy.record_stream(torch.cuda.default_stream(view.device))
    return copy


def given(outputs: Tensors) -> list[torch.Tensor]:
    """Copies that the next batch does not overwrite, complete, in the layout that Triton takes."""
    copies = [output.clone(memory_format=torch.contiguous_format) for output in outputs]
    if copies and copies[0].device.type == "cuda":
        torch.cuda.current_stream(copies[0].device).synchronize()
    return copies


@functools.lru_cache
def _copy_stream(device: torch.device) -> Any:
    """One per device: the allocator keeps memory apart by stream."""
    new_stream: Any = torch.cuda.Stream
    return new_stream(device)
