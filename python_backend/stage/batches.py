"""A ragged batch on its way to a program's input: its frames are prepared apart from each other, on any
threads or processes, and come together here.

Rules
- A frame that cannot be used keeps its place as zeros.
- Pixels are collected as uint8 [batch, height, width, channels]. Where a client has sent the network's own
  input, or the network takes uint8, the whole batch is made that input here.
- Whoever brings the last frame calls `done`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from ensembles.prepare.pixels import normalised
from planner.ingress import PrepareRecipe
from planner.profile import TensorSpec
from python_backend.stage.preparing import Done, Prepared
from python_backend.wire.hop_failure import FailureKind
from python_backend.wire.kserve import NUMPY_OF, Array, Buffer
from python_backend.wire.ragged import FrameInfo, FrameKind


class RaggedBatch:
    """See the module. Thread-safe. `target`: the network's input."""

    def __init__(
        self,
        recipe: PrepareRecipe,
        target: TensorSpec,
        infos: Sequence[FrameInfo],
        frames: Sequence[Buffer],
        done: Done,
        pixels: Array | None = None,
    ) -> None:
        """pixels: where they are collected, of all frames; None: in memory of its own."""
        self.infos = infos
        self.frames = frames
        self._recipe = recipe
        self._target = target
        self._done = done
        self._pixels = np.empty(shape_of(recipe, len(infos)), np.uint8) if pixels is None else pixels
        self._faults: dict[int, str] = {}
        self._failed: tuple[FailureKind, str] | None = None
        self._lock = threading.Lock()
        self._open = set(self.to_prepare())

    def to_prepare(self) -> list[int]:
        """The places of frames that are no tensors."""
        return [index for index, info in enumerate(self.infos) if info.kind is not FrameKind.TENSOR]

    def begin(self) -> None:
        """Once all frames have been handed to whoever prepares them, or there are none."""
        if not self.to_prepare():
            self._finish()

    def put(self, index: int, pixels: Array) -> None:
        """A frame's pixels."""
        self._pixels[index] = pixels
        self.is_there(index)

    def is_there(self, index: int) -> None:
        """A frame's pixels are where they are collected."""
        self._ended(index)

    def fault(self, index: int, text: str) -> None:
        """What is wrong with a frame."""
        self._pixels[index] = 0
        self._faults[index] = text
        self._ended(index)

    def fail(self, index: int, kind: FailureKind, text: str) -> None:
        """Why a frame could not be prepared, though nothing may be wrong with it: it fails its batch."""
        self._failed = kind, text
        self._ended(index)

    def _ended(self, index: int) -> None:
        with self._lock:
            self._open.discard(index)
            last = not self._open
        if last:
            self._finish()

    def _finish(self) -> None:
        if self._failed is not None:
            self._done(Prepared([], {}, self._failed))
        elif len(self.to_prepare()) == len(self.infos) and self._recipe.dtype != "UINT8":
            self._done(Prepared([self._pixels], self._faults))
        else:
            self._done(Prepared([self._tensors()], self._faults))

    def _tensors(self) -> Array:
        batch = np.zeros((len(self.infos), *self._target.shape), NUMPY_OF[self._target.dtype])
        for index, info in enumerate(self.infos):
            if info.kind is FrameKind.TENSOR:
                batch[index] = np.frombuffer(self.frames[index], batch.dtype).reshape(self._target.shape)
            elif index not in self._faults:
                batch[index] = normalised(self._pixels[index], self._recipe)
        return batch


def shape_of(recipe: PrepareRecipe, frames: int) -> tuple[int, int, int, int]:
    """Of the pixels of so many frames."""
    return frames, recipe.height, recipe.width, recipe.channels
