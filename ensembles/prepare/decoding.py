"""Decodes a frame to uint8, upright, as a viewer shows it.

Rules
- JPEG by libjpeg-turbo (simplejpeg: a third of Pillow's time), CMYK and PNG by Pillow, each asked for its one
  format alone.
- What is not whole is refused: a progressive JPEG that broke off would decode to a blurred picture, a PNG
  whose header lies to nonsense.
- 16 bits become 8 by value / 257. Transparency is dropped, so colours below it show. Of an animation the
  first frame is taken. EXIF's orientation is applied.
- Whatever a decoder raises is the frame's fault, and its message names nothing of ours.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from ensembles.prepare.faults import FrameFault
from ensembles.prepare.headers import FrameHeader, not_whole, read_header
from ensembles.prepare.png import check_length
from planner.ingress import Order

Frame = npt.NDArray[np.uint8]
_CMYK = 4
_COLOURS = {"rgb": "RGB", "bgr": "BGR", "grey": "GRAY"}
_MOST_SCANS = 100
"""Of a progressive JPEG, which encoders write in about ten: each is a pass over all pixels, be it empty."""
_SCAN = b"\xff\xda"


def decode(
    encoded: bytes | memoryview,
    enough: tuple[int, int] | None = None,
    header: FrameHeader | None = None,
    order: Order = "rgb",
) -> Frame:
    """[height, width, channels]: 3, of grey 1. Raises FrameFault.

    enough: (width, height), upright, from which on a JPEG need not be decoded at its full size; None: it is.
    header: where it was read already.
    """
    header = header or read_header(encoded)
    try:
        frame = _decoded(encoded, header, enough, order)
    except FrameFault:
        raise
    except Exception as error:
        raise not_whole(encoded) from error
    return upright(frame, header.orientation)


def _decoded(
    encoded: bytes | memoryview, header: FrameHeader, enough: tuple[int, int] | None, order: Order
) -> Frame:
    if header.format == "png":
        check_length(encoded, header)
        return reordered(_by_pillow(encoded, "PNG"), order)
    check_scans(encoded, header)
    if header.components == _CMYK:
        return reordered(_by_pillow(encoded, "JPEG"), order)
    width, height = enough or (0, 0)
    if header.upright != (header.width, header.height):
        width, height = height, width
    found: Frame = simplejpeg.decode_jpeg(
        encoded, _COLOURS[order], min_height=height, min_width=width, min_factor=1
    )
    return found


def check_scans(encoded: bytes | memoryview, header: FrameHeader) -> None:
    """Raises FrameFault for more of them than any encoder writes."""
    if header.progressive and bytes(encoded).count(_SCAN) > _MOST_SCANS:
        raise not_whole(encoded)


def _by_pillow(encoded: bytes | memoryview, kind: str) -> Frame:
    with Image.open(io.BytesIO(encoded), formats=(kind,)) as image:
        image.load()  # raises for what is not whole
        if image.mode.startswith("I;16") or image.mode == "I":
            grey = _from_16_bits(np.asarray(image))
            return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def _from_16_bits(values: npt.NDArray[Any]) -> Frame:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def reordered(frame: Frame, order: Order) -> Frame:
    """An RGB frame in another order of channels; grey: its luminance (ITU-R 601), as JPEG has it."""
    if order == "rgb":
        return frame
    if order == "bgr":
        return np.ascontiguousarray(frame[:, :, ::-1])
    return np.asarray(Image.fromarray(frame).convert("L"))[:, :, np.newaxis]


def upright(frame: Frame, orientation: int) -> Frame:
    """A frame as stored, or a plane of it, turned as EXIF's orientation says."""
    if orientation == 1:
        return frame
    if orientation in (5, 6, 7, 8):
        frame = frame.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        frame = frame[:, ::-1]
    if orientation in (3, 4, 7, 8):
        frame = frame[::-1]
    return np.ascontiguousarray(frame)
