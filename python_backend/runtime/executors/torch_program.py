"""Runs an exported stage with torch, on the CPU or on a GPU: the same code path, tensors move where they
must.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from planner.manifest import StageProgram
from python_backend.runtime.kserve import NUMPY_OF, Array

_WARM_UP_EACH = 16
"""Batch sizes up to which each is warmed up."""


class ProgramError(RuntimeError):
    """The program file is not the one of the plan, or gives other outputs than the manifest says."""


class TorchExecutor:
    """One torch.export program on one device, on one CPU thread, without gradients."""

    def __init__(self, program: StageProgram, path: Path, device: str) -> None:
        _require_hash(path, program.program_sha256)
        torch.set_num_threads(1)
        self._program = program
        self._device = torch.device(device)
        self._module = torch.export.load(path).module().to(self._device)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See StageExecutor. Raises ProgramError."""
        with torch.inference_mode():
            results = self._module(*(self._to_device(array) for array in inputs))
            results = results if isinstance(results, tuple | list) else (results,)
            arrays = [result.detach().cpu().contiguous().numpy() for result in results]
        if len(arrays) != len(self._program.outputs):
            raise ProgramError(
                f"{self._program.program} gives {len(arrays)} outputs, not {len(self._program.outputs)}"
            )
        return arrays

    def warm_up(self) -> None:
        """Run every batch size once, the largest first: the first run of a size is slow, and takes memory.

        Of many sizes, the powers of two.
        """
        largest = self._program.max_batch_size
        for batch in sorted(_warm_up_sizes(largest), reverse=True):
            self.run([np.zeros((batch, *spec.shape), NUMPY_OF[spec.dtype]) for spec in self._program.inputs])

    def _to_device(self, array: Array) -> torch.Tensor:
        with warnings.catch_warnings():
            # torch warns that it cannot honour read-only arrays; programs of inference do not write to
            # inputs.
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(array).to(self._device, non_blocking=True)


def _warm_up_sizes(largest: int) -> set[int]:
    if largest <= _WARM_UP_EACH:
        return set(range(1, largest + 1))
    return {largest} | {1 << power for power in range(largest.bit_length())}


def _require_hash(path: Path, sha256: str) -> None:
    if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ProgramError(
            f"{path} is not the program of this plan (its SHA-256 differs from the manifest's)"
        )
