"""Where a frame lies in the network's input: arithmetic alone, the same for pixels and for boxes.

Rule: sides are whole pixels, rounded as the recipe's fit says; libraries differ in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.ingress import Fit, PrepareRecipe

_HAIR = 1e-6
"""A quotient of floats may lie a hair below the whole number that it means."""


@dataclass(frozen=True)
class FittedFrame:
    """A frame resized to width x height, its upper left corner at (left, top) of the network's input; below 0
    where it is cropped.
    """

    width: int
    height: int
    left: int = 0
    top: int = 0


@dataclass(frozen=True)
class Geometry:
    """From the network's input to the client's frame, upright: (x - left) * scale_x, (y - top) * scale_y."""

    scale_x: float = 1.0
    scale_y: float = 1.0
    left: int = 0
    top: int = 0

    def to_frame(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes [n, 4] (left, top, right, bottom). What lies in a border lies outside of the frame."""
        corner = np.array([self.left, self.top, self.left, self.top], np.float32)
        scale = np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], np.float32)
        return (boxes - corner) * scale


def placed(recipe: PrepareRecipe, width: int, height: int) -> FittedFrame:
    """Of a frame of width x height, upright."""
    fit = recipe.fit
    if fit.kind == "stretch":
        return FittedFrame(recipe.width, recipe.height)
    if fit.kind == "letterbox":
        return _boxed(recipe, width, height)
    return _cropped(recipe, width, height)


def geometry(recipe: PrepareRecipe, width: int, height: int) -> Geometry:
    """Of a frame of width x height, upright."""
    place = placed(recipe, width, height)
    return Geometry(width / place.width, height / place.height, place.left, place.top)


def _boxed(recipe: PrepareRecipe, width: int, height: int) -> FittedFrame:
    """As large as fits."""
    ratio = min(recipe.width / width, recipe.height / height)
    inner_width = min(recipe.width, max(1, _rounded(width * ratio, recipe.fit)))
    inner_height = min(recipe.height, max(1, _rounded(height * ratio, recipe.fit)))
    if recipe.fit.anchor == "corner":
        return FittedFrame(inner_width, inner_height)
    left, top = (recipe.width - inner_width) // 2, (recipe.height - inner_height) // 2
    return FittedFrame(inner_width, inner_height, left, top)


def _cropped(recipe: PrepareRecipe, width: int, height: int) -> FittedFrame:
    """As small as covers the input's size / share, with the input in its middle."""
    least_width = math.floor(recipe.width / recipe.fit.share + _HAIR)
    least_height = math.floor(recipe.height / recipe.fit.share + _HAIR)
    if least_width * height >= least_height * width:
        inner = least_width, max(least_height, _rounded(least_width * height / width, recipe.fit))
    else:
        inner = max(least_width, _rounded(least_height * width / height, recipe.fit)), least_height
    return FittedFrame(*inner, -round((inner[0] - recipe.width) / 2), -round((inner[1] - recipe.height) / 2))


def _rounded(length: float, fit: Fit) -> int:
    if fit.rounding == "down":
        return int(length)
    return math.floor(length + 0.5) if fit.rounding == "half-up" else round(length)
