"""What an encoded frame says of itself, read without decoding it.

Rules
- Two formats are known, JPEG and PNG, told by their first bytes. Nothing else is looked into: decoders of
  other formats have had faults, and some start other programs.
- What is larger than allowed, in bytes or by the pixels that its header claims, is refused before anything is
  decoded. A small file can claim to be a huge image.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ensembles.prepare.faults import FrameFault
from planner.ingress import FrameLimits, ImageFormat

_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TURNED = (5, 6, 7, 8)
"""EXIF orientations in which width and height change places."""
_ORIENTATION_TAG = 0x0112
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_FIRST_SAMPLING = 7
"""Where a frame header has the first component's sampling factors; each takes three bytes."""
_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))
_SCAN, _END = 0xDA, 0xD9

USUAL = FrameLimits()


@dataclass(frozen=True)
class FrameHeader:
    """width, height: as stored; components: of a JPEG (4: CMYK), else 0; orientation: EXIF's, 1 to 8;
    progressive, sampling: of a JPEG; the latter a byte for each component, its factors across and down.
    depth, colour, interlaced: of a PNG, as its header has them.
    """

    format: ImageFormat
    width: int
    height: int
    components: int = 0
    orientation: int = 1
    progressive: bool = False
    sampling: bytes = b""
    depth: int = 8
    colour: int = 0
    interlaced: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) as a viewer shows it."""
        turned = self.orientation in _TURNED
        return (self.height, self.width) if turned else (self.width, self.height)


def read_header(encoded: bytes | memoryview, limits: FrameLimits = USUAL) -> FrameHeader:
    """Raises FrameFault."""
    data = memoryview(encoded)
    if len(data) > limits.max_bytes:
        raise FrameFault(f"an image of {len(data)} bytes; at most {limits.max_bytes} are taken")
    start = bytes(data[:8])
    try:
        if start.startswith(_JPEG_START):
            header = _jpeg(data)
        elif start == _PNG_START:
            header = _png(data)
        else:
            raise not_whole(data)
    except (struct.error, IndexError) as error:
        raise not_whole(data) from error
    if header.format not in limits.formats:
        raise FrameFault(f"a {header.format.upper()} image; {limits.formats[0].upper()} is taken")
    if 0 in (header.width, header.height):
        raise FrameFault(f"an image of {header.width} x {header.height} pixels")
    if header.width * header.height > limits.max_pixels:
        raise FrameFault(
            f"an image of {header.width} x {header.height} pixels; at most {limits.max_pixels} are decoded"
        )
    return header


def not_whole(encoded: bytes | memoryview) -> FrameFault:
    """What is said of a frame that is no image, or a part of one."""
    return FrameFault(f"{len(encoded)} bytes that are no complete JPEG or PNG image")


def _jpeg(data: memoryview) -> FrameHeader:
    orientation = 1
    for marker, segment in _segments(data):
        if marker == 0xE1 and bytes(segment[:6]) == b"Exif\0\0":
            orientation = _orientation(bytes(segment[6:]))
        elif marker in _SOF_MARKERS:
            _, height, width, components = struct.unpack_from(">BHHB", segment)
            sampling = bytes(segment[_FIRST_SAMPLING : _FIRST_SAMPLING + 3 * components : 3])
            return FrameHeader(
                "jpeg", width, height, components, orientation, marker in _PROGRESSIVE, sampling
            )
    raise not_whole(data)


def _segments(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(marker, contents) of a JPEG's segments up to its first scan."""
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1  # fill bytes
        if data[at] != 0xFF:
            return
        marker = data[at + 1]
        at += 2
        if marker in _BARE_MARKERS:
            continue
        if marker in (_SCAN, _END):
            return
        (length,) = struct.unpack_from(">H", data, at)
        yield marker, data[at + 2 : at + length]
        at += max(2, length)


def _png(data: memoryview) -> FrameHeader:
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if bytes(data[12:16]) != b"IHDR":
        raise not_whole(data)
    return FrameHeader(
        "png",
        width,
        height,
        orientation=_png_orientation(data),
        depth=depth,
        colour=colour,
        interlaced=interlaced != 0,
    )


def _png_orientation(data: memoryview) -> int:
    """Of the eXIf chunk, where one stands before the pixels."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return _orientation(bytes(data[at + 8 : at + 8 + length]))
        if kind == b"IDAT":
            break
        at += 12 + length
    return 1


def _orientation(tiff: bytes) -> int:
    """The orientation in EXIF's TIFF structure; 1 where there is none that makes sense."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, offset)
        for index in range(entries):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, offset + 2 + 12 * index)
            if tag == _ORIENTATION_TAG and kind == 3:
                (value,) = struct.unpack_from(f"{order}H", tiff, offset + 2 + 12 * index + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
