"""JPEGs of a stated size in bytes, as cameras make them: real pictures' costs to decode, without pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from ppipe.bench.frames import make_pictures
from ppipe.bench.target import Picture

_SEED = 11


def camera_jpegs(count: int, width: int, height: int, size: int) -> Sequence[bytes]:
    """`count` JPEGs of about `size` bytes: quality is chosen for it."""
    return tuple(_of_size(picture, size) for picture in make_pictures(count, _SEED, width, height))


def _of_size(picture: Picture, size: int) -> bytes:
    low, high = 1, 95
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(_encoded(picture, middle)) <= size else (low, middle - 1)
    return _encoded(picture, low)


def _encoded(picture: Picture, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
