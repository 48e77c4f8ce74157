"""libturbojpeg of this host, where there is one: JPEGs to planes of luma and chroma, as they are stored.

Rules
- It is found by its name alone: no program is run to look for it.
- Only calls that libjpeg-turbo 2 and 3 both have are used. A warning counts as an error: of a file that
  broke off the rest would be grey.
- A JPEG whose planes mean anything else, or whose last pixel of chroma covers less than the others, is not
  for here.
- The library writes planes as large as it finds them in the file: what it finds has to be what our header
  says, or it would write beyond them.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from ensembles.prepare.headers import FrameHeader, not_whole

Plane = npt.NDArray[np.uint8]
Planes = tuple[Plane, Plane, Plane]
"""Luma, blue, red, each [height, width]."""
LIBRARY: Final = "libturbojpeg.so.0"
_SHARES: Final = {b"\x21\x11\x11": (2, 1), b"\x22\x11\x11": (2, 2)}
"""By the sampling factors of luma, blue and red: 4:2:2 and 4:2:0, which is what cameras write. Where there is
as much chroma as luma, three planes cost more than they save.
"""
_TJSAMP: Final = {(2, 1): 1, (2, 2): 2}
"""The library's number of each."""
_COLOURS_YCBCR: Final = 1
_FILE: Final = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong)
_INT: Final = ctypes.POINTER(ctypes.c_int)


class TurboJpeg:
    """Thread-safe."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._open = library.tjInitDecompress
        self._open.restype = ctypes.c_void_p
        self._close = library.tjDestroy
        self._close.argtypes = [ctypes.c_void_p]
        self._header = library.tjDecompressHeader3
        self._header.argtypes = [*_FILE, *[_INT] * 4]
        self._decompress = library.tjDecompressToYUVPlanes
        self._decompress.argtypes = [
            *(*_FILE, ctypes.POINTER(ctypes.c_void_p)),
            *(ctypes.c_int, _INT, ctypes.c_int, ctypes.c_int),
        ]

    def planes(self, encoded: bytes | memoryview, header: FrameHeader) -> Planes | None:
        """Of a JPEG at its full size, as stored; None where it has none that `shares` knows, or is of other
        colours. Raises FrameFault for a file that is not whole, MemoryError.
        """
        share = shares(header)
        if share is None:
            return None
        data = np.frombuffer(encoded, np.uint8)
        handle = self._open()
        if not handle:
            raise MemoryError("libturbojpeg")
        try:
            if not self._is_as_said(handle, data, header, share):
                return None
            return self._planes(handle, data, header, share)
        finally:
            self._close(handle)

    def _is_as_said(self, handle: int, data: Plane, header: FrameHeader, share: tuple[int, int]) -> bool:
        width, height, sampling, colours = (ctypes.c_int() for _ in range(4))
        found = map(ctypes.byref, (width, height, sampling, colours))
        if self._header(handle, data.ctypes.data, len(data), *found) != 0:
            return False
        said = (header.width, header.height, _TJSAMP[share], _COLOURS_YCBCR)
        return (width.value, height.value, sampling.value, colours.value) == said

    def _planes(self, handle: int, data: Plane, header: FrameHeader, share: tuple[int, int]) -> Planes:
        across, down = share
        luma = np.empty((header.height, header.width), np.uint8)
        blue, red = (np.empty((header.height // down, header.width // across), np.uint8) for _ in range(2))
        targets = (ctypes.c_void_p * 3)(luma.ctypes.data, blue.ctypes.data, red.ctypes.data)
        size = (header.width, None, header.height)
        if self._decompress(handle, data.ctypes.data, len(data), targets, *size, 0) != 0:
            raise not_whole(data.data)
        return luma, blue, red


def shares(header: FrameHeader) -> tuple[int, int] | None:
    """Pixels of luma for one of chroma, across and down; None for what is better decoded whole."""
    share = _SHARES.get(header.sampling)
    if share is None or header.width % share[0] or header.height % share[1]:
        return None
    return share


@functools.cache
def library() -> TurboJpeg | None:
    """None where this host has none."""
    try:
        return TurboJpeg(ctypes.CDLL(LIBRARY))
    except (OSError, AttributeError):
        return None
