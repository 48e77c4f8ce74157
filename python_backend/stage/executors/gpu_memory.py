"""Holds a worker to the memory that the plan gives it, so that neighbours on its GPU cannot be starved.

torch's caching allocator is limited; what CUDA itself takes for a process (context, libraries, kernels) is
outside of it and set aside first.
"""

from __future__ import annotations

import torch

from planner.execution import CONTEXT_BYTES
from python_backend.stage.executors.errors import ProgramError


def limit_memory(device: torch.device, memory_bytes: int | None) -> None:
    """From now on this process takes at most `memory_bytes` of the device. Raises ProgramError."""
    if device.type == "cuda" and memory_bytes is not None:
        total = int(torch.cuda.get_device_properties(device).total_memory)
        torch.cuda.set_per_process_memory_fraction(allocator_fraction(memory_bytes, total), device)


def allocator_fraction(memory_bytes: int, total_bytes: int) -> float:
    """Share of the device's memory that torch's allocator may take. Raises ProgramError."""
    if memory_bytes <= CONTEXT_BYTES:
        raise ProgramError(
            f"the plan gives this worker {memory_bytes / 2**30:.2f} GiB of its GPU; CUDA alone needs about "
            f"{CONTEXT_BYTES / 2**30:.2f}: fewer slices, or a larger memory_gib"
        )
    return min(1.0, (memory_bytes - CONTEXT_BYTES) / total_bytes)
