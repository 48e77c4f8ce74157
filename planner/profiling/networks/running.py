"""Torch programs one after another on a device, on frames of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import GraphModule

from planner.profiling.measuring import timing
from planner.profiling.measuring.timing import Run, Tensors
from planner.profiling.network import Part, Running, Specs, Times


def plain(module: GraphModule, device: str) -> Run:
    """The module as it is, whatever the options: for who has no executor at hand."""
    moved = module.to(device)
    return lambda values: tuple(moved(*values))


class TorchChain:
    """See planner.profiling.network.LoadedPrograms."""

    def __init__(self, modules: Sequence[tuple[GraphModule, Part]], frame: Specs, how: Running) -> None:
        """frame: of the first of them."""
        self._frame = frame
        self._how = how
        self.runs: list[Run] = [
            plain(module, how.device)
            if how.prepare is None
            else how.prepare(module, part.inputs, part.outputs, how.executor, how.device, how.largest)
            for module, part in modules
        ]
        self._frames: dict[int, Tensors] = {}

    def times(self, batch: int, while_busy: Callable[[], None]) -> Times | None:
        """See Chain."""
        try:
            with timing.torch_threads(self._how.threads), torch.inference_mode():
                frames = self._frames_of(batch)
                return tuple(timing.time_chain(self.runs, frames, self._how.device, while_busy))
        except Exception as error:
            if not timing.is_out_of_memory(error):
                raise
            timing.free_memory(self._how.device)
            return None

    def peaks(self, batch: int) -> Sequence[int]:
        """See Chain."""
        with torch.inference_mode():
            return timing.peak_bytes(self.runs, self._frames_of(batch), self._how.device)

    def outputs(self, batch: int) -> Sequence[npt.NDArray[np.float64]]:
        """See Chain."""
        with timing.torch_threads(self._how.threads), torch.inference_mode():
            values = self._frames_of(batch)
            for run in self.runs:
                values = run(values)
            return [value.double().cpu().numpy() for value in values]

    def _frames_of(self, batch: int) -> Tensors:
        if batch not in self._frames:
            seed, device = self._how.seed, self._how.device
            self._frames[batch] = tuple(
                tensor
                for index, spec in enumerate(self._frame)
                for tensor in timing.random_frames(spec, batch, device, seed + index)
            )
        return self._frames[batch]
