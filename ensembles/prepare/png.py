"""Whether a PNG holds the pixels that its header claims.

A header can lie with a right checksum: a decoder then makes nonsense of what is there, without a word. So the
inflated length is compared with the one that width, height, depth and colour call for. Nothing is kept of
what is inflated, and no more is inflated than belongs there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from ensembles.prepare.headers import FrameHeader, not_whole

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values per pixel, by PNG's colour type."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced image: first column, first row, columns apart, rows apart."""
_PIECE = 1 << 20


def check_length(encoded: bytes | memoryview, header: FrameHeader) -> None:
    """Raises FrameFault where the pixels are more or fewer than claimed, or do not inflate."""
    belongs = inflated_length(header)
    if belongs is None or _inflated(memoryview(encoded), belongs) != belongs:
        raise not_whole(encoded)


def inflated_length(header: FrameHeader) -> int | None:
    """Bytes of all rows, each with its filter in front; None for a colour type that there is not."""
    samples = _SAMPLES.get(header.colour)
    if samples is None:
        return None
    sizes = [(header.width, header.height)]
    if header.interlaced:
        sizes = [
            (_count(header.width, left, across), _count(header.height, top, down))
            for left, top, across, down in _PASSES
        ]
    bits = samples * header.depth
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns)


def _count(length: int, first: int, apart: int) -> int:
    return max(0, -((first - length) // apart))


def _inflated(data: memoryview, most: int) -> int:
    """Length of what the image data inflate to; what goes beyond `most` counts as one byte."""
    inflate, length = zlib.decompressobj(), 0
    try:
        for chunk in _image_data(data):
            left = bytes(chunk)
            while left and length <= most:
                length += len(inflate.decompress(left, min(_PIECE, most + 1 - length) or 1))
                left = inflate.unconsumed_tail
    except (zlib.error, struct.error):
        return -1
    return length if inflate.eof else -1


def _image_data(data: memoryview) -> Iterator[memoryview]:
    """Contents of the IDAT chunks, which stand together."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            yield data[at + 8 : at + 8 + length]
        elif kind == b"IEND":
            return
        at += 12 + length
