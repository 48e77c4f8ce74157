"""Frames as clients send them: the right pixels, or one line that says what is wrong."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks.helpers.wild.case import Answer, Expected, WildCase
from ensembles.prepare.decoding import decode
from ensembles.prepare.faults import FrameFault

WIDTH, HEIGHT = 120, 80
REFUSAL = (r"^\d+ bytes that are no complete JPEG or PNG image$",)
Pixels = npt.NDArray[np.uint8]


def cases() -> Iterator[WildCase]:
    """Every frame."""
    for name, (kind, data, right) in taken().items():
        yield WildCase(f"frames-{name}", kind, Expected.TAKEN, Frame(data, right).ask)
    for name, (kind, data) in refused().items():
        yield WildCase(f"frames-{name}", kind, Expected.REFUSED, Frame(data).ask, REFUSAL)


@dataclass(frozen=True)
class Frame:
    """`right`: the pixels of one that is taken, to within what JPEG loses."""

    data: bytes
    right: Pixels | None = None

    def ask(self, folder: Path) -> Answer:
        """Decode it as serving does."""
        del folder
        try:
            found = decode(self.data)
        except FrameFault as fault:
            return Answer(taken=False, said=str(fault))
        if self.right is None or found.shape != self.right.shape:
            return Answer(taken=True, fault=f"{list(found.shape)} pixels")
        off = float(np.abs(found.astype(int) - self.right.astype(int)).mean())
        return Answer(taken=True, fault="" if off < 4 else f"pixels are off by {off:.0f} of 255 in the mean")


def picture() -> Image.Image:
    """Coloured shapes on a ramp, unlike itself in any turn."""
    ramp = np.linspace(40, 200, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)
    image = Image.fromarray(np.dstack((ramp, ramp[::-1, ::-1], np.full_like(ramp, 90))))
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 6, 40, 30), fill=(230, 20, 20))
    draw.ellipse((70, 40, 110, 74), fill=(20, 30, 220))
    return image


def _encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def taken() -> dict[str, tuple[str, bytes, Pixels]]:
    """(kind, file, right pixels) by name."""
    image, pixels = picture(), np.asarray(picture())
    grey = np.asarray(image.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    found: dict[str, tuple[str, bytes, Pixels]] = {
        "jpeg": ("jpeg", _encoded(image, "JPEG", quality=97), pixels),
        "jpeg-progressive": ("jpeg", _encoded(image, "JPEG", quality=97, progressive=True), pixels),
        "jpeg-grey": ("jpeg", _encoded(image.convert("L"), "JPEG", quality=97), np.dstack([grey] * 3)),
        "jpeg-cmyk": ("jpeg", _encoded(image.convert("CMYK"), "JPEG", quality=97), pixels),
        "png": ("png", _encoded(image, "PNG"), pixels),
        "png-16-bits": ("png", _encoded(deep, "PNG"), np.dstack([grey] * 3)),
        "png-transparent": ("png", _encoded(image.convert("RGBA"), "PNG"), pixels),
        "png-palette": ("png", _encoded(image.quantize(256), "PNG"), pixels),
        "png-interlaced-grey": (
            "png",
            _encoded(image.convert("L"), "PNG", optimize=True),
            np.dstack([grey] * 3),
        ),
        "trailing": ("remains", _encoded(image, "JPEG", quality=97) + b"--end--", pixels),
        "mjpeg": ("remains", _encoded(image, "JPEG", quality=97) * 3, pixels),
    }
    turns = {
        2: (0, True),
        3: (2, False),
        4: (2, True),
        5: (3, True),
        6: (3, False),
        7: (1, True),
        8: (1, False),
    }
    for orientation, (quarters, mirrored) in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        shown = np.rot90(pixels, quarters)
        right = np.ascontiguousarray(shown[:, ::-1] if mirrored else shown)
        data = _encoded(image, "JPEG", quality=97, exif=exif)
        found[f"orientation-{orientation}"] = ("orientation", data, right)
    return found


def refused() -> dict[str, tuple[str, bytes]]:
    """(kind, file) by name."""
    image = picture()
    noise = Image.fromarray(np.random.default_rng(8).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    jpeg, png = _encoded(noise, "JPEG"), _encoded(noise, "PNG")
    return {
        "empty": ("no image", b""),
        "html": ("no image", b"<html><body>404</body></html>"),
        "base64": ("no image", b"/9j/4AAQSkZJRgABAQAAAQABAAD"),
        "gif": ("other formats", _encoded(image.quantize(8), "GIF")),
        "webp": ("other formats", _encoded(image, "WEBP")),
        "tiff": ("other formats", _encoded(image, "TIFF")),
        "bmp": ("other formats", _encoded(image, "BMP")),
        "eps": (
            "other formats",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        ),
        "jpeg-half": ("broken off", jpeg[: len(jpeg) // 2]),
        "jpeg-progressive-cut": ("broken off", _encoded(noise, "JPEG", progressive=True)[:-999]),
        "png-half": ("broken off", png[: len(png) // 2]),
        "png-damaged": ("broken off", png[:300] + bytes(32) + png[332:]),
    }
