"""The built-in step: a crop of each box that a detector found, best first.

Rules: boxes are left, top, right, bottom in pixels of the frame as it was sent, upright. What lies outside of
the frame is cut off; of a box wholly outside, or with no area, there is no crop, and the answer says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ensembles.graphs import DETECTED_BOXES, DETECTED_CLASSES
from ensembles.prepare.decoding import Frame
from python_backend.cascade.frames import SentFrame
from python_backend.wire.kserve import Array


class NoCrop(ValueError):
    """A box of which there is none."""


def found_boxes(outputs: Mapping[str, Array]) -> npt.NDArray[Any]:
    """The boxes [n, 4] of an answer to one frame, without its empty rows, which are last."""
    classes = np.asarray(outputs[DETECTED_CLASSES], np.int64).reshape(-1)
    boxes = np.asarray(outputs[DETECTED_BOXES], np.float64).reshape(-1, 4)
    return boxes[classes >= 0]


def crops(frame: SentFrame, outputs: Mapping[str, Array]) -> Iterator[Frame | NoCrop]:
    """Of each box its crop, or why there is none. The frame is decoded for the first. Raises FrameFault."""
    boxes = found_boxes(outputs)
    if len(boxes):
        picture = frame.picture()
        for box in boxes:
            try:
                yield crop(picture, box)
            except NoCrop as error:
                yield error


def crop(picture: Frame, box: npt.NDArray[Any]) -> Frame:
    """All pixels that the box touches: a view. Raises NoCrop."""
    height, width = picture.shape[:2]
    said = f"the box [{', '.join(f'{edge:g}' for edge in box)}]"
    if not np.isfinite(box).all():
        raise NoCrop(f"{said} has edges that are no numbers")
    left, top = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    right, bottom = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    if right <= left or bottom <= top:
        empty = box[2] <= box[0] or box[3] <= box[1]
        raise NoCrop(f"{said} has no area" if empty else f"{said} is outside of the {width} x {height} frame")
    return picture[top:bottom, left:right]
