"""Batches of unequal frames on their way to a first stage: each frame as its client sent it.

Rules
- The signed ticket describes every frame (FrameInfo), in the batch's order; the bytes lie in shared memory
  one frame after the other, or come as one Triton tensor RAGGED of type BYTES and shape [batch, 1], so that
  the batch stays its first dimension, which ensembles need. In the first case its elements are empty.
- Only the first hop carries frames. The descriptions go on to the last one, which finishes by them.
- A first stage answers with STATUS, BYTES [batch, 1], beside the outputs where a frame could not be used:
  what is wrong with it, empty for good ones. Such a frame went on as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np

from python_backend.scheduler.declare import record
from python_backend.scheduler.record import Record
from python_backend.wire.kserve import Array, Buffer

EMPTY_ELEMENT = bytes(4)


class FrameKind(Enum):
    """What the bytes of a frame are."""

    ENCODED = "e"
    """An image file."""
    PIXELS = "p"
    """uint8 RGB, height x width x 3."""
    TENSOR = "t"
    """The network's own input, from a client that prepares by itself."""


@record
class FrameInfo(Record):
    """A frame as its client sent it: bytes, and its size in pixels as its header says it (0 for tensors).

    orientation: EXIF's, 1 to 8; from 5 on width and height change places when it is shown upright.
    """

    kind: FrameKind
    size: int
    width: int = 0
    height: int = 0
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) as the frame is shown."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    def to_text(self) -> str:
        """As JSON."""
        return f'["{self.kind.value}",{self.size},{self.width},{self.height},{self.orientation}]'


def info_of(plain: Any) -> FrameInfo:
    """What to_text() wrote, read by json. Raises ValueError, TypeError."""
    kind, size, width, height, orientation = plain
    for number in (size, width, height, orientation):
        if type(number) is not int or not 0 <= number < 1 << 40:
            raise TypeError(f"{number!r:.40} is no size of a frame")
    return FrameInfo(FrameKind(kind), size, width, height, orientation)


def body_of(tensors: Sequence[Sequence[Buffer]]) -> list[list[Buffer]]:
    """Frames, each given as a tensor, as the one tensor RAGGED: every element with its length in front."""
    pieces: list[Buffer] = []
    for frame in tensors:
        pieces.append(sum([len(piece) for piece in frame]).to_bytes(4, "little"))
        pieces.extend(frame)
    return [pieces]


def status_array(faults: Mapping[int, str], batch: int) -> Array:
    """STATUS of a batch; `faults`: what is wrong, by a frame's place in the batch."""
    texts = [faults.get(index, "").encode() for index in range(batch)]
    return np.array(texts, dtype=np.object_).reshape(batch, 1)


def faults_of(status: Array) -> dict[int, str]:
    """The other way round."""
    texts = [bytes(text) for text in status.ravel().tolist()]
    return {index: text.decode("utf-8", "replace") for index, text in enumerate(texts) if text}
