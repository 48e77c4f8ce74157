"""JPEGs resized plane by plane: luma and chroma come to the network's size apart, and only what is left is
made RGB. The chroma that a file does not hold need not be made up for it.

Rules
- All that differs from the usual way is how chroma between its pixels is made up: by the resizing itself,
  where decoders make up whole pixels first. Of photographs that is less than 1/255 of the range in the
  mean; of small frames full of sharp colours it can be 3/255.
- Only where a frame becomes smaller in both directions: else there is nothing to save.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from ensembles.prepare.decoding import Frame, check_scans, upright
from ensembles.prepare.fitting import FittedFrame
from ensembles.prepare.headers import FrameHeader
from ensembles.prepare.resizing import scaled
from ensembles.prepare.turbojpeg import library, shares
from planner.ingress import PrepareRecipe

_TO: Final = {"rgb": cv2.COLOR_YCrCb2RGB, "bgr": cv2.COLOR_YCrCb2BGR}
_SMALLER: Final = 2
"""A frame has so many times the pixels that are made of it, at least: below, little or nothing is saved."""


def scaled_planes(
    encoded: bytes | memoryview, header: FrameHeader, place: FittedFrame, recipe: PrepareRecipe
) -> Frame | None:
    """What `scaled` makes of the decoded frame, in the network's order of channels; None where that way is to
    be gone. place: where the upright frame lies. Raises FrameFault.
    """
    turbo = library()
    if turbo is None or not saves(header, place, recipe):
        return None
    check_scans(encoded, header)
    planes = turbo.planes(encoded, header)
    if planes is None:
        return None
    luma, blue, red = (
        scaled(upright(plane, header.orientation)[:, :, None], place, recipe) for plane in planes
    )
    merged = cv2.merge((luma, red, blue))
    return np.asarray(cv2.cvtColor(merged, _TO[recipe.order], dst=merged), np.uint8)


def saves(header: FrameHeader, place: FittedFrame, recipe: PrepareRecipe) -> bool:
    """Whether a frame is one for this way. One that is decoded smaller is not, and costs less still."""
    share = shares(header)
    if recipe.reduced or recipe.order not in _TO or share is None:
        return False
    width, height = header.upright
    across, down = share if (width, height) == (header.width, header.height) else share[::-1]
    if recipe.fit.interpolation != "area":  # which averages only where both sides shrink, chroma's too
        across = down = 1
    if place.width * across > width or place.height * down > height:
        return False
    return _SMALLER * place.width * place.height <= width * height
