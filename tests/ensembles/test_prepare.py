"""Frames as clients send them: the right pixels or a clear refusal, never nonsense, never a traceback."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ensembles.prepare.decoding import Frame, decode, upright
from ensembles.prepare.faults import FrameFault
from ensembles.prepare.headers import FrameHeader, read_header
from ensembles.prepare.png import inflated_length
from planner.ingress import FrameLimits

WIDTH, HEIGHT = 96, 40
ACROSS = np.linspace(0, 255, WIDTH).round().astype(np.uint8)[None].repeat(HEIGHT, 0)
DOWN = np.linspace(0, 255, HEIGHT).round().astype(np.uint8)[:, None].repeat(WIDTH, 1)
PICTURE = np.stack((ACROSS, DOWN, 255 - ACROSS), 2)
GREY = np.repeat(ACROSS[:, :, None], 3, 2)
RIBBON = np.full((2, 30_000, 3), 7, np.uint8)
NOISE = np.random.default_rng(3).integers(0, 256, (300, 400, 3), dtype=np.uint8)


def encoded(image: Any, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **how)
    return buffer.getvalue()


def png_of_16_bits(colour: int, rows: npt.NDArray[np.uint16]) -> bytes:
    """Written by hand: Pillow writes no 16-bit RGB. colour: PNG's type."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def oriented(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PICTURE, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


def apng() -> bytes:
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])


TAKEN: dict[str, tuple[bytes, npt.NDArray[np.uint8], int]] = {
    # name: (file, its right pixels, largest difference of any value)
    "png": (encoded(PICTURE, "PNG"), PICTURE, 0),
    "jpeg": (encoded(PICTURE, "JPEG", quality=98), PICTURE, 12),
    "progressive jpeg": (encoded(PICTURE, "JPEG", quality=98, progressive=True), PICTURE, 12),
    "jpeg 4:4:4": (encoded(PICTURE, "JPEG", quality=98, subsampling=0), PICTURE, 8),
    "grey jpeg": (encoded(ACROSS, "JPEG", quality=98), GREY, 4),
    "cmyk jpeg": (encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=98), PICTURE, 24),
    "grey png": (encoded(ACROSS, "PNG"), GREY, 0),
    "grey png of 16 bits": (png_of_16_bits(0, ACROSS.astype(np.uint16) * 257), GREY, 0),
    "png of 16 bits": (png_of_16_bits(2, PICTURE.reshape(HEIGHT, -1).astype(np.uint16).reshape(
        HEIGHT, WIDTH, 3) * 257), PICTURE, 1),
    "transparent png": (encoded(np.dstack((PICTURE, DOWN)), "PNG"), PICTURE, 0),
    "grey png with alpha": (
        encoded(Image.merge("LA", (Image.fromarray(ACROSS), Image.fromarray(DOWN))), "PNG"), GREY, 0),
    "palette png": (encoded(Image.fromarray(PICTURE).quantize(256), "PNG"), PICTURE, 48),
    "png of one bit": (encoded(Image.fromarray(ACROSS).convert("1", dither=Image.Dither.NONE), "PNG"),
                       np.where(GREY > 127, 255, 0).astype(np.uint8), 0),
    "animated png": (apng(), PICTURE, 0),
    "two jpegs in a row": (encoded(PICTURE, "JPEG", quality=98) * 2, PICTURE, 12),
    "text after a jpeg": (encoded(PICTURE, "JPEG", quality=98) + b"\r\n--boundary--\r\n", PICTURE, 12),
    "one pixel": (encoded(PICTURE[:1, :1], "PNG"), PICTURE[:1, :1], 0),
    "a ribbon": (encoded(RIBBON, "PNG"), RIBBON, 0),
}  # fmt: skip
WHOLE = encoded(NOISE, "JPEG")
REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello, this is no image at all",
    "jpeg cut in the middle": WHOLE[: len(WHOLE) // 2],
    "progressive jpeg cut late": encoded(NOISE, "JPEG", progressive=True)[:-2000],
    "jpeg without its end": WHOLE[:-2],
    "only the start of a jpeg": b"\xff\xd8\xff\xe0",
    "png cut": encoded(NOISE, "PNG")[:-500],
    "only the start of a png": b"\x89PNG\r\n\x1a\n",
    "damaged png": encoded(NOISE, "PNG")[:200] + bytes(64) + encoded(NOISE, "PNG")[264:],
    "gif": encoded(Image.fromarray(PICTURE).quantize(16), "GIF"),
    "webp": encoded(PICTURE, "WEBP"),
    "tiff of 16 bits": encoded(Image.fromarray(ACROSS.astype(np.uint16)), "TIFF"),
    "tiff of floats": encoded(Image.fromarray(ACROSS.astype(np.float32)), "TIFF"),
    "bmp": encoded(PICTURE, "BMP"),
    "ico": encoded(PICTURE, "ICO"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n",
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='30'/>",
}
INSIDES = ("Traceback", "/", "simplejpeg", "PIL", "0x", "Error")


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_has_the_right_pixels(name: str) -> None:
    data, right, tolerance = TAKEN[name]
    frame = decode(data)
    assert (frame.dtype, frame.shape) == (np.uint8, right.shape)
    assert np.abs(frame.astype(int) - right.astype(int)).max() <= tolerance
    header = read_header(data)
    assert (header.height, header.width) == right.shape[:2]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_taken_is_refused_in_one_line_that_shows_nothing_of_ours(name: str) -> None:
    with pytest.raises(FrameFault) as refused:
        decode(REFUSED[name])
    said = str(refused.value)
    assert "\n" not in said
    assert not [inside for inside in INSIDES if inside in said]


def test_no_program_is_started_for_a_strangers_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    for data in REFUSED.values():
        with pytest.raises(FrameFault):
            decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_are_turned_as_a_viewer_shows_them(orientation: int, kind: str) -> None:
    data = oriented(orientation, kind)
    header = read_header(data)
    assert header.orientation == orientation
    frame = decode(data)
    assert (frame.shape[1], frame.shape[0]) == header.upright
    # Pillow's own turn of the stored picture, by EXIF's table.
    from PIL import ImageOps

    with Image.open(io.BytesIO(data)) as image:
        right = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.abs(frame.astype(int) - right.astype(int)).max() <= 6


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5))
def test_turning_keeps_every_pixel(orientation: int, height: int, width: int) -> None:
    frame: Frame = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    turned = upright(frame, orientation)
    assert turned.flags["C_CONTIGUOUS"]
    assert sorted(map(tuple, turned.reshape(-1, 3))) == sorted(map(tuple, frame.reshape(-1, 3)))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_may_be_decoded_smaller_but_never_below_what_is_enough(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.zeros((720, 1280, 3), np.uint8), "JPEG", exif=exif)
    enough = (200, 100) if orientation == 1 else (100, 200)
    height, width, _ = decode(data, enough).shape
    assert (width, height) == ((320, 180) if orientation == 1 else (180, 320))


def png(width: int, height: int, depth: int, colour: int, interlaced: bool, raw: bytes) -> bytes:
    """With these bytes as inflated image data, and right checksums."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(3 * 256)) if colour == 3 else b""
    body = zlib.compress(raw)
    cut = len(body) // 2
    image = chunk(b"IDAT", body[:cut]) + chunk(b"IDAT", body[cut:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + image + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), [(0, 1), (0, 16), (2, 8), (3, 2), (4, 8), (6, 16)])
@given(width=st.integers(1, 19), height=st.integers(1, 19), off=st.sampled_from([-1, 1, 7]))
def test_a_png_whose_header_lies_is_refused_whatever_its_checksum_says(
    colour: int, depth: int, interlaced: bool, width: int, height: int, off: int
) -> None:
    header = FrameHeader("png", width, height, depth=depth, colour=colour, interlaced=interlaced)
    length = inflated_length(header)
    assert length is not None
    good = png(width, height, depth, colour, interlaced, bytes(length))
    assert decode(good).shape == (height, width, 3)
    with pytest.raises(FrameFault, match="no complete JPEG or PNG image"):
        decode(png(width, height, depth, colour, interlaced, bytes(max(0, length + off))))


def test_a_header_that_swaps_its_sides_is_a_lie() -> None:
    data = bytearray(encoded(NOISE, "PNG"))
    data[16:24] = struct.pack(">II", 300, 400)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(FrameFault, match="no complete"):
        decode(bytes(data))


@pytest.mark.parametrize(("width", "height"), [(400, 600), (400, 200), (416, 300), (800, 300)])
def test_a_jpeg_whose_header_lies_is_refused(width: int, height: int) -> None:
    data = bytearray(WHOLE)
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    with pytest.raises(FrameFault, match="no complete"):
        decode(bytes(data))


def test_a_jpeg_of_a_thousand_empty_scans_is_refused() -> None:
    data = encoded(NOISE[:8, :8], "JPEG", progressive=True)
    assert decode(data).shape == (8, 8, 3)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(FrameFault, match="no complete"):
        decode(data[:-2] + scan * 1000 + data[-2:])


@pytest.mark.parametrize("size", [(30_000, 30_000), (100_000, 501)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    data = encoded(PICTURE, "PNG")
    bomb = data[:16] + struct.pack(">II", *size) + data[24:]
    with pytest.raises(FrameFault, match=f"{size[0]} x {size[1]} pixels; at most"):
        read_header(bomb)
    with pytest.raises(FrameFault, match="at most 1000 are decoded"):
        read_header(data, FrameLimits(max_pixels=1000))


@pytest.mark.parametrize("change", [lambda n: n + 7, lambda n: n - 7])
def test_a_size_that_lies_is_refused_or_keeps_to_it(change: Callable[[int], int]) -> None:
    data = encoded(PICTURE, "PNG")
    height = change(HEIGHT)
    lie = data[:16] + struct.pack(">II", WIDTH, height) + data[24:]
    crc = struct.pack(">I", zlib.crc32(lie[12:29]))
    try:
        shape: tuple[int, ...] = decode(lie[:29] + crc + lie[33:]).shape
    except FrameFault:
        shape = (height, WIDTH, 3)
    assert shape == (height, WIDTH, 3)


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", WHOLE[:400]]))
def test_any_bytes_are_a_frame_or_a_fault(tail: bytes, start: bytes) -> None:
    try:
        header = read_header(start + tail)
    except FrameFault:
        header = FrameHeader("png", 1, 1)
    assert header.width > 0
    with pytest.raises(FrameFault):
        decode(start + tail)
