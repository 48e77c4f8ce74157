"""What a client sent, checked and described: encoded images, raw pixels, or the network's own inputs.

Rules
- A request has one frame or several; all of its tensors have as many rows. Of a model that prepares, one of
  the first two public inputs is the frame, and what else the network takes comes beside it.
- Nothing is decoded here, only headers are read, and what is larger than the model's limits is refused by
  them. What is wrong is said in terms of what the client sent, and of several frames with which it is.
- A frame's bytes are its image or first tensor, then its other tensors in the network's order.
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
"""A frame's bytes, and what they are; None where the first stage takes nothing but the network's inputs."""


class Intake:
    """Of one model. See the module."""

    def __init__(self, entry: ModelEntry) -> None:
        self.names = tuple(spec.name for spec in entry.public_inputs)
        self._own: TensorSpec = entry.input
        self._recipe = entry.prepare
        self._own_inputs = entry.network_inputs
        self._own_names = frozenset(spec.name for spec in self._own_inputs)
        self._others = entry.other_inputs
        self._dtypes = {
            spec.name: np.dtype(kserve.NUMPY_OF[spec.dtype])
            for spec in (self._own, *self._own_inputs)
            if spec.dtype in kserve.NUMPY_OF
        }

    def take(self, given: Mapping[str, Array]) -> list[Taken]:
        """The request's frames. Raises ValueError."""
        if self._recipe is None:
            self._require(given, self._own_names)
            rows = _rows(given)
            for spec in self._own_inputs:
                self._check_own(spec, given[spec.name])
            return [(self._joined(given, self._own_inputs, row), None) for row in range(rows)]
        name = self._frame_name(given)
        rows = _rows(given)
        for spec in self._others:
            self._check_own(spec, given[spec.name])
        array = given[name]
        if name == self._own.name:
            self._check_own(self._own, array)
        return [self._taken(name, given, row, rows) for row in range(rows)]

    def _frame_name(self, given: Mapping[str, Array]) -> str:
        """Which of the inputs is the frame."""
        ways = [name for name in self.names[:2] if name in given]
        if len(ways) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(
                f"expected one of the inputs {', '.join(self.names[:2])} in a request, not {found}"
            )
        self._require(given, frozenset((ways[0], *(spec.name for spec in self._others))))
        return ways[0]

    def _require(self, given: Mapping[str, Array], wanted: frozenset[str]) -> None:
        if given.keys() != wanted:
            found = ", ".join(given) or "none"
            raise ValueError(f"expected the inputs {', '.join(sorted(wanted))} in a request, not {found}")

    def _taken(self, name: str, given: Mapping[str, Array], row: int, rows: int) -> Taken:
        """One frame of a model that prepares."""
        try:
            if name == self._own.name:
                data, info = self._joined(given, (self._own,), row), FrameInfo(FrameKind.TENSOR, 0)
            elif given[name].dtype == np.object_:
                data, info = self._encoded(name, given[name], row)
            else:
                data, info = self._pixels(name, given[name], row)
        except ValueError as error:
            raise ValueError(str(error) if rows == 1 else f"frame {row} of {rows}: {error}") from None
        if self._others:
            data = memoryview(b"".join((data, self._joined(given, self._others, row))))
        return data, FrameInfo(info.kind, len(data), info.width, info.height, info.orientation)

    def _joined(self, given: Mapping[str, Array], specs: tuple[TensorSpec, ...], row: int) -> memoryview:
        pieces = [_piece(given[spec.name], row) for spec in specs]
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def _check_own(self, spec: TensorSpec, array: Array) -> None:
        if array.shape[1:] != spec.shape or array.dtype != self._dtypes[spec.name]:
            raise ValueError(
                f"input {spec.name}: {array.dtype} {list(array.shape)}; expected frames: "
                f"{spec.dtype} {_batch_of(spec)}"
            )

    def _encoded(self, name: str, array: Array, row: int) -> tuple[memoryview, FrameInfo]:
        if array.shape[1:] != (1,):
            raise ValueError(f"input {name}: {list(array.shape)} images; expected frames: BYTES [n, 1]")
        data = array[row, 0]
        assert self._recipe is not None
        try:
            header = read_header(data, self._recipe.limits)
        except ValueError as error:
            raise ValueError(f"input {name}: {error}") from None
        info = FrameInfo(FrameKind.ENCODED, len(data), header.width, header.height, header.orientation)
        return memoryview(data), info

    def _pixels(self, name: str, array: Array, row: int) -> tuple[memoryview, FrameInfo]:
        shaped = array.ndim == 4 and array.shape[3] == 3 and 0 not in array.shape
        if not shaped or array.dtype != np.uint8:
            raise ValueError(
                f"input {name}: {array.dtype} {list(array.shape)}; expected frames: "
                "UINT8 [n, height, width, 3]"
            )
        assert self._recipe is not None
        _, height, width, _ = array.shape
        if width * height > self._recipe.limits.max_pixels:
            raise ValueError(
                f"input {name}: a frame of {width} x {height} pixels; at most "
                f"{self._recipe.limits.max_pixels} are taken"
            )
        data = _piece(array, row)
        return data, FrameInfo(FrameKind.PIXELS, len(data), width, height)


def _piece(array: Array, row: int) -> memoryview:
    """The bytes of one frame of a tensor; most requests have one frame, and no slice is made of theirs."""
    return kserve.piece(array if len(array) == 1 else array[row : row + 1])


def _rows(given: Mapping[str, Array]) -> int:
    """Frames in a request. Raises ValueError where its tensors differ in them, or have none."""
    if len(given) == 1:
        for array in given.values():
            if array.ndim and len(array):
                return len(array)
    rows = {name: len(array) if array.ndim else 0 for name, array in given.items()}
    if len(set(rows.values())) != 1 or 0 in rows.values():
        said = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise ValueError(f"frames in the request: {said}; expected one row of each input for every frame")
    return next(iter(rows.values()))


def _batch_of(spec: TensorSpec) -> str:
    return f"[{', '.join(map(str, ('n', *spec.shape)))}]"
