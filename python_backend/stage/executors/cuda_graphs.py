"""One CUDA graph per batch size: a batch costs one launch instead of one per kernel.

Rules
- Inputs are copied into a graph's own input tensors, and its outputs are its own too: whoever wants to keep
  them copies them before the next batch.
- Graphs share one pool of memory. They never run side by side, and outputs stay referenced, so what one graph
  frees in the middle another may use. The largest batch is captured first, so that later ones find room.
- A size is captured when it first comes, which is while the stage warms up. Any other size runs without a
  graph, or, if asked for, padded in the next larger one; the padding's outputs are cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from python_backend.stage.executors.task import Run, Tensors

_WARM_UP_RUNS = 3
"""Before capture, so that cuDNN, cuBLAS and the allocator have made their choices (torch.cuda's notes)."""


class Recorder(Protocol):
    """Records a function of no arguments."""

    def record(self, function: Callable[[], Tensors]) -> tuple[Callable[[], Any], Tensors]:
        """(replay, the outputs that every replay writes)."""


class CudaRecorder:
    """torch.cuda.CUDAGraph, all of them in one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], Tensors]) -> tuple[Callable[[], Any], Tensors]:
        """See Recorder."""
        with torch.cuda.device(self._device):
            new_stream: Any = torch.cuda.Stream
            side = new_stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP_RUNS):
                    function()
            torch.cuda.current_stream().wait_stream(side)
            graph: Any = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = function()
        return graph.replay, outputs


@dataclass(frozen=True, eq=False)
class _Captured:
    inputs: Tensors
    outputs: Tensors
    replay: Callable[[], Any]

    def run(self, inputs: Tensors) -> Tensors:
        batch = len(inputs[0])
        for own, given in zip(self.inputs, inputs, strict=True):
            own[:batch].copy_(given, non_blocking=True)
        self.replay()
        return tuple(output[:batch] for output in self.outputs)


class Graphed:
    """A Run that replays. `sizes`: batch sizes to capture; `pad`: run others in the next larger one."""

    def __init__(self, run: Run, recorder: Recorder, sizes: Iterable[int], pad: bool) -> None:
        self._run = run
        self._recorder = recorder
        self._sizes = sorted(sizes)
        self._pad = pad
        self._captured: dict[int, _Captured] = {}

    def __call__(self, inputs: Tensors) -> Tensors:
        """See Run. The outputs are overwritten by the next call."""
        size = self._size_for(len(inputs[0]))
        if size is None:
            return self._run(inputs)
        if size not in self._captured:
            self._captured[size] = self._capture(inputs, size)
        return self._captured[size].run(inputs)

    def _size_for(self, batch: int) -> int | None:
        if batch in self._sizes:
            return batch
        return next((size for size in self._sizes if size > batch), None) if self._pad else None

    def _capture(self, inputs: Tensors, size: int) -> _Captured:
        own = tuple(tensor.new_zeros((size, *tensor.shape[1:])) for tensor in inputs)
        replay, outputs = self._recorder.record(lambda: self._run(own))
        return _Captured(inputs=own, outputs=outputs, replay=replay)
