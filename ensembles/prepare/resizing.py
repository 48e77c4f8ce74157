"""Resizes frames, each interpolation as the library does it that it is named after.

bilinear: OpenCV's INTER_LINEAR, which looks at four pixels however much smaller the result is. antialias,
bicubic: Pillow's, whose filters widen with the factor; torchvision's are the same. area: OpenCV's INTER_AREA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import cv2
import numpy as np
from PIL import Image

from ensembles.prepare.decoding import Frame
from ensembles.prepare.faults import FrameFault
from ensembles.prepare.fitting import FittedFrame
from planner.ingress import Interpolation, PrepareRecipe

Size = tuple[int, int]


def use_one_thread() -> None:
    """Keep OpenCV from spreading one frame over all cores: there are as many frames as cores already."""
    cv2.setNumThreads(1)


def scaled(frame: Frame, place: FittedFrame, recipe: PrepareRecipe) -> Frame:
    """A frame [height, width, channels], or a plane of it, as large as it lies in the network's input, with
    what is cropped cut off. Raises FrameFault for anything else.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (1, 3) or 0 in frame.shape:
        raise unusable(frame)
    resized = resize(frame, (place.width, place.height), recipe.fit.interpolation)
    top, left = max(0, -place.top), max(0, -place.left)
    return resized[top : top + recipe.height, left : left + recipe.width]


def unusable(frame: Frame) -> FrameFault:
    """What is said of an array that is no frame."""
    return FrameFault(f"a frame of {frame.dtype} {list(frame.shape)}; expected uint8 [height, width, 3]")


def bordered(scaled: Frame, place: FittedFrame, recipe: PrepareRecipe) -> Frame:
    """What `scaled` made of a frame, in the network's order of channels, with what the fit puts around it."""
    if scaled.shape[:2] == (recipe.height, recipe.width):
        return scaled
    right = recipe.width - place.left - place.width
    bottom = recipe.height - place.top - place.height
    fill = recipe.fit.fill * (1 if len(recipe.fit.fill) > 1 else scaled.shape[2])
    sides = (place.top, bottom, place.left, right)
    whole = cv2.copyMakeBorder(scaled, *sides, borderType=cv2.BORDER_CONSTANT, value=fill)
    return np.asarray(whole, np.uint8).reshape(recipe.height, recipe.width, scaled.shape[2])


def resize(frame: Frame, size: Size, interpolation: Interpolation) -> Frame:
    """size: (width, height)."""
    if (frame.shape[1], frame.shape[0]) == size:
        return frame
    resized = _WAYS[interpolation](frame, size)
    return resized.reshape(size[1], size[0], frame.shape[2])


def _by_opencv(how: int, frame: Frame, size: Size) -> Frame:
    return np.asarray(cv2.resize(frame, size, interpolation=how), np.uint8)


def _by_pillow(how: Image.Resampling, frame: Frame, size: Size) -> Frame:
    picture = Image.fromarray(frame if frame.shape[2] == 3 else frame[:, :, 0])
    return np.asarray(picture.resize(size, how))


_WAYS: Mapping[Interpolation, Callable[[Frame, Size], Frame]] = {
    "bilinear": partial(_by_opencv, cv2.INTER_LINEAR),
    "area": partial(_by_opencv, cv2.INTER_AREA),
    "antialias": partial(_by_pillow, Image.Resampling.BILINEAR),
    "bicubic": partial(_by_pillow, Image.Resampling.BICUBIC),
}
