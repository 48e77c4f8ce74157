"""Prepares frames on threads of the stage's own process."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from ensembles.steps import FrameFault, Normalisation, decode, normalise, resize, to_channels
from planner.ingress import PrepareRecipe
from planner.profile import TensorSpec
from python_backend.stage.preparing import Done, Prepared
from python_backend.wire.kserve import NUMPY_OF, Array, Buffer
from python_backend.wire.ragged import FrameInfo, FrameKind
from python_backend.wire.threads import Crew

_REDUCED = 2


class ThreadsPreparer:
    """See Preparer. `target`: the network's input, for clients that send it."""

    def __init__(self, recipe: PrepareRecipe, target: TensorSpec, log: Callable[[str], None]) -> None:
        self._recipe = recipe
        self._target = target
        self._crew = Crew("prepare", os.cpu_count() or 1, lambda error: log(f"preparing failed: {error!r}"))

    def begin(self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], done: Done) -> None:
        """See Preparer."""
        self._crew.submit(functools.partial(self._prepare, infos, frames, done))

    def close(self) -> None:
        """See Preparer."""
        self._crew.close()

    def _prepare(self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], done: Done) -> None:
        recipe = self._recipe
        pixels = np.zeros((len(infos), recipe.height, recipe.width, recipe.channels), np.uint8)
        faults: dict[int, str] = {}
        for index, (info, frame) in enumerate(zip(infos, frames, strict=True)):
            if info.kind is not FrameKind.TENSOR:
                try:
                    pixels[index] = self._pixels(info, frame)
                except Exception as error:
                    faults[index] = str(error) if isinstance(error, FrameFault) else "not decodable"
        if all(info.kind is not FrameKind.TENSOR for info in infos):
            done(Prepared([pixels], faults))
            return
        done(Prepared([self._tensors(infos, frames, pixels, faults)], faults))

    def _pixels(self, info: FrameInfo, frame: Buffer) -> Array:
        recipe = self._recipe
        if info.kind is FrameKind.PIXELS:
            image = np.frombuffer(frame, np.uint8).reshape(info.height, info.width, 3)
        else:
            image = decode(bytes(frame), (_REDUCED * recipe.width, _REDUCED * recipe.height))
        return to_channels(resize(image, recipe.height, recipe.width), recipe.channels)

    def _tensors(
        self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], pixels: Array, faults: dict[int, str]
    ) -> Array:
        recipe = self._recipe
        norm = Normalisation(mean=recipe.mean, std=recipe.std)
        batch = np.zeros((len(infos), *self._target.shape), NUMPY_OF[self._target.dtype])
        for index, (info, frame) in enumerate(zip(infos, frames, strict=True)):
            if info.kind is FrameKind.TENSOR:
                batch[index] = np.frombuffer(frame, batch.dtype).reshape(self._target.shape)
            elif index not in faults:
                batch[index] = normalise(pixels[index], norm)
        return batch
