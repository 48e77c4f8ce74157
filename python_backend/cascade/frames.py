"""Frames as members of a cascade are sent them: a request's inputs, and the picture that they are."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from ensembles.prepare.decoding import Frame, decode
from ensembles.prepare.faults import FrameFault
from ensembles.prepare.headers import read_header
from planner.manifest import ModelEntry
from python_backend.wire.kserve import NUMPY_OF, Array

Given = Mapping[str, Array]
"""A model's inputs for one frame, each with a leading dimension of 1."""
_QUALITY = 95
"""Of crops for models that take JPEG files, without chroma subsampling: the network sees the crop twice
encoded.
"""


class SentFrame:
    """One frame as it was sent to a model. Its picture is decoded once, by whoever asks first."""

    def __init__(self, entry: ModelEntry, given: Given) -> None:
        self.given = given
        self._entry = entry
        self._picture: Frame | None = None
        self._lock = threading.Lock()

    def picture(self) -> Frame:
        """uint8 [height, width, 3], RGB, upright. Raises FrameFault where the frame is none."""
        with self._lock:
            if self._picture is None:
                self._picture = self._decoded()
            return self._picture

    def _decoded(self) -> Frame:
        recipe = self._entry.prepare
        array = None if recipe is None else self.given.get(recipe.frame.name)
        if recipe is None or array is None:
            raise FrameFault(
                f"a frame of {self._entry.model} was sent as {', '.join(self.given)}, which is no picture"
            )
        if recipe.kind == "raw":
            return np.asarray(array[0], np.uint8)
        encoded: Any = array.reshape(-1)[0]
        header = read_header(encoded, recipe.limits)
        found = decode(encoded, header=header)
        return found if found.shape[2] == 3 else np.repeat(found, 3, axis=2)


def as_given(entry: ModelEntry, item: Any) -> Given:
    """What a step made, as the inputs of one frame of the model that takes it: an encoded image (bytes),
    pixels (uint8 [height, width, 3]), the network's own input, or all inputs by name. Raises TypeError.
    """
    if isinstance(item, Mapping):
        return {str(name): np.asarray(value)[np.newaxis] for name, value in item.items()}
    recipe = entry.prepare
    if isinstance(item, bytes | memoryview) and recipe is not None and recipe.kind == "jpeg":
        return {recipe.frame.name: _encoded(bytes(item))}
    if isinstance(item, np.ndarray):
        if recipe is not None and item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3:
            return {recipe.frame.name: _pixels(recipe.kind, item)}
        own = entry.input
        if item.shape == own.shape and item.dtype == NUMPY_OF.get(own.dtype):
            return {own.name: item[np.newaxis]}
    raise TypeError(f"{_said(item)}; {entry.model} takes {_wanted(entry)}")


def _pixels(kind: str, pixels: npt.NDArray[np.uint8]) -> Array:
    if 0 in pixels.shape:
        raise TypeError(f"pixels {list(pixels.shape)}: an empty picture")
    whole = np.ascontiguousarray(pixels)
    if kind == "raw":
        return whole[np.newaxis]
    return _encoded(simplejpeg.encode_jpeg(whole, _QUALITY, "RGB", "444"))


def _encoded(image: bytes) -> Array:
    found = np.empty((1, 1), np.object_)
    found[0, 0] = image
    return found


def _said(item: Any) -> str:
    if isinstance(item, np.ndarray):
        return f"an array {item.dtype} {list(item.shape)}"
    return f"a value of type {type(item).__name__}"


def _wanted(entry: ModelEntry) -> str:
    own = f"{entry.input.name} {entry.input.dtype} {list(entry.input.shape)}"
    ways = [] if entry.prepare is None else ["pixels (uint8 [height, width, 3])"]
    if entry.prepare is not None and entry.prepare.kind == "jpeg":
        ways.insert(0, "an encoded image (bytes)")
    return ", ".join([*ways, f"its network's input {own}", "or a mapping of inputs by name"])
