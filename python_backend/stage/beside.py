"""First stages of networks with several inputs: a client's frame is prepared, what it sent beside it is not.

A frame's bytes are the image, or the tensor that it becomes, and then the network's other inputs, each in its
own size (dispatcher.intake).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.profile import TensorSpec
from python_backend.stage.preparing import Done, Prepared, Preparer
from python_backend.wire.kserve import NUMPY_OF, Array, Buffer
from python_backend.wire.ragged import FrameInfo


class BesidePreparer:
    """`inner` prepares the frames; `inputs`: of the program, `place`: which of them the frame becomes."""

    def __init__(self, inner: Preparer, inputs: Sequence[TensorSpec], place: int) -> None:
        self._inner = inner
        self._place = place
        self._others = [spec for index, spec in enumerate(inputs) if index != place]
        self._tail = sum(spec.bytes_per_frame for spec in self._others)

    def begin(
        self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], done: Done, until_us: int | None = None
    ) -> None:
        """See Preparer."""
        views = [memoryview(frame) for frame in frames]
        others = self._arrays([view[len(view) - self._tail :] for view in views])

        def completed(prepared: Prepared) -> None:
            if prepared.failed is None:
                inputs = [*others[: self._place], *prepared.inputs, *others[self._place :]]
                prepared = Prepared(inputs, prepared.faults)
            done(prepared)

        alone = [
            FrameInfo(info.kind, info.size - self._tail, info.width, info.height, info.orientation)
            for info in infos
        ]
        self._inner.begin(alone, [view[: len(view) - self._tail] for view in views], completed, until_us)

    def close(self) -> None:
        """See Preparer."""
        self._inner.close()

    def _arrays(self, tails: Sequence[memoryview]) -> list[Array]:
        """The other inputs of a batch, copied."""
        made: list[Array] = []
        start = 0
        for spec in self._others:
            end = start + spec.bytes_per_frame
            rows = [
                np.frombuffer(tail[start:end], NUMPY_OF[spec.dtype]).reshape(spec.shape) for tail in tails
            ]
            made.append(np.stack(rows))
            start = end
        return made
