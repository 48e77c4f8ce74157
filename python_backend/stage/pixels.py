"""A client's frame, as the ticket describes it, to pixels of the network's size."""

from __future__ import annotations

import numpy as np

from ensembles.prepare.faults import FrameFault
from ensembles.prepare.pixels import encoded_pixels, raw_pixels
from planner.ingress import PrepareRecipe
from python_backend.wire.kserve import Array, Buffer
from python_backend.wire.ragged import FrameInfo, FrameKind


def pixels_of(info: FrameInfo, frame: Buffer, recipe: PrepareRecipe) -> Array:
    """[height, width, channels]. Raises FrameFault, whatever is wrong with it."""
    try:
        if info.kind is FrameKind.PIXELS:
            return raw_pixels(np.frombuffer(frame, np.uint8).reshape(info.height, info.width, 3), recipe)
        return encoded_pixels(frame, recipe)
    except FrameFault:
        raise
    except Exception as error:
        raise FrameFault("not decodable") from error
