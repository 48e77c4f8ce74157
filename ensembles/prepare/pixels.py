"""A client's frame to what a network takes: uint8 pixels, then floats, where the program does not make them.

Pixels are [height, width, channels] of the network's size, in its order of channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ensembles.prepare.decoding import Frame, decode, reordered
from ensembles.prepare.fitting import FittedFrame, placed
from ensembles.prepare.headers import read_header
from ensembles.prepare.planes import scaled_planes
from ensembles.prepare.resizing import bordered, scaled, unusable
from planner.ingress import PrepareRecipe

REDUCED = 2
"""A JPEG that may be decoded smaller is decoded at so many times what the fit makes of it, at least: resizing
averages what is left.
"""
_DTYPES = {"FP32": np.float32, "FP16": np.float16}


def encoded_pixels(encoded: bytes | memoryview, recipe: PrepareRecipe, whole: bool = False) -> Frame:
    """Of an encoded image. whole: never by planes, as on hosts without libturbojpeg. Raises FrameFault."""
    header = read_header(encoded, recipe.limits)
    place = placed(recipe, *header.upright)
    pixels = None if whole else scaled_planes(encoded, header, place, recipe)
    if pixels is None:
        enough = (REDUCED * place.width, REDUCED * place.height) if recipe.reduced else None
        frame = decode(encoded, enough, header, recipe.order)
        place = _place(frame, recipe)  # it may have been decoded smaller
        pixels = scaled(frame, place, recipe)
    return bordered(_channels(pixels, recipe), place, recipe)


def raw_pixels(frame: Frame, recipe: PrepareRecipe) -> Frame:
    """Of an RGB frame [height, width, 3]. Raises FrameFault."""
    if frame.ndim != 3 or 0 in frame.shape:
        raise unusable(frame)
    place = _place(frame, recipe)
    pixels = reordered(scaled(frame, place, recipe), recipe.order)
    return bordered(_channels(pixels, recipe), place, recipe)


def _place(frame: Frame, recipe: PrepareRecipe) -> FittedFrame:
    return placed(recipe, frame.shape[1], frame.shape[0])


def _channels(pixels: Frame, recipe: PrepareRecipe) -> Frame:
    return pixels if pixels.shape[2] == recipe.channels else np.repeat(pixels, recipe.channels, axis=2)


def normalised(pixels: Frame, recipe: PrepareRecipe) -> npt.NDArray[Any]:
    """(pixel * scale - mean) / std as the network takes it, without batch dimension."""
    if recipe.dtype == "UINT8":
        return _laid_out(pixels, recipe)
    # Two parameters per channel instead of three operations per value.
    std = np.asarray(recipe.std, np.float64)
    factor = (recipe.scale / std).astype(np.float32)
    offset = (np.asarray(recipe.mean, np.float64) / std).astype(np.float32)
    values = pixels.astype(np.float32)
    values *= factor
    values -= offset
    return _laid_out(values.astype(_DTYPES[recipe.dtype], copy=False), recipe)


def _laid_out(values: npt.NDArray[Any], recipe: PrepareRecipe) -> npt.NDArray[Any]:
    return values if recipe.layout == "nhwc" else np.ascontiguousarray(values.transpose(2, 0, 1))


def encoded_input(
    encoded: bytes | memoryview, recipe: PrepareRecipe, whole: bool = False
) -> npt.NDArray[Any]:
    """An encoded image to the network's input, without batch dimension. whole: as encoded_pixels has it.
    Raises FrameFault.
    """
    return normalised(encoded_pixels(encoded, recipe, whole), recipe)


def raw_input(frame: Frame, recipe: PrepareRecipe) -> npt.NDArray[Any]:
    """A raw frame to the network's input, without batch dimension. Raises FrameFault."""
    return normalised(raw_pixels(frame, recipe), recipe)
