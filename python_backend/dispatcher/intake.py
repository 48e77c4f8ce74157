"""What a client sent, checked and described: an encoded image, raw pixels, or the network's own input.

Rules: one frame per request, in one of the public inputs; nothing is decoded here, only headers are read, and
what is larger than the model's limits is refused by them; what is wrong is said in terms of what the client
sent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ensembles.prepare.headers import read_header
from planner.manifest import ModelEntry
from planner.profile import TensorSpec
from python_backend.wire import kserve
from python_backend.wire.kserve import Array
from python_backend.wire.ragged import FrameInfo, FrameKind

Taken = tuple[memoryview, FrameInfo | None]


class Intake:
    """Of one model. See the module."""

    def __init__(self, entry: ModelEntry) -> None:
        self.names = tuple(spec.name for spec in entry.public_inputs)
        self._own: TensorSpec = entry.input
        self._recipe = entry.prepare

    def take(self, given: Mapping[str, Array]) -> Taken:
        """A frame's bytes, and what they are; None where the first stage takes nothing but the network's
        input.

        Raises ValueError.
        """
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(f"one of the inputs {', '.join(self.names)} belongs in a request, not {found}")
        ((name, array),) = given.items()
        if name == self._own.name:
            self._check_own(array)
            data = kserve.piece(array)
            return data, None if self._recipe is None else FrameInfo(FrameKind.TENSOR, len(data))
        return self._encoded(name, array) if array.dtype == np.object_ else self._pixels(name, array)

    def _check_own(self, array: Array) -> None:
        spec = self._own
        if array.shape != (1, *spec.shape) or array.dtype != kserve.NUMPY_OF[spec.dtype]:
            raise ValueError(
                f"input {spec.name}: {array.dtype} {list(array.shape)}; one frame per request belongs: "
                f"{spec.dtype} {[1, *spec.shape]}"
            )

    def _encoded(self, name: str, array: Array) -> Taken:
        if array.shape != (1, 1):
            raise ValueError(
                f"input {name}: {list(array.shape)} images; one frame per request belongs: BYTES [1, 1]"
            )
        data = array.item()
        assert self._recipe is not None
        try:
            header = read_header(data, self._recipe.limits)
        except ValueError as error:
            raise ValueError(f"input {name}: {error}") from None
        info = FrameInfo(FrameKind.ENCODED, len(data), header.width, header.height, header.orientation)
        return memoryview(data), info

    def _pixels(self, name: str, array: Array) -> Taken:
        shaped = array.ndim == 4 and array.shape[0] == 1 and array.shape[3] == 3 and 0 not in array.shape
        if not shaped or array.dtype != np.uint8:
            raise ValueError(
                f"input {name}: {array.dtype} {list(array.shape)}; one frame per request belongs: "
                "UINT8 [1, height, width, 3]"
            )
        assert self._recipe is not None
        _, height, width, _ = array.shape
        if width * height > self._recipe.limits.max_pixels:
            raise ValueError(
                f"input {name}: a frame of {width} x {height} pixels; at most "
                f"{self._recipe.limits.max_pixels} are taken"
            )
        data = kserve.piece(array)
        return data, FrameInfo(FrameKind.PIXELS, len(data), width, height)
