"""JPEGs that are resized plane by plane, against decoding them whole: the same but for how chroma between its
pixels is made up, refused alike, and only where it saves anything.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ensembles.prepare import planes, turbojpeg
from ensembles.prepare.decoding import Frame, decode
from ensembles.prepare.faults import FrameFault
from ensembles.prepare.fitting import placed
from ensembles.prepare.headers import read_header
from ensembles.prepare.pixels import encoded_pixels
from ensembles.prepare.planes import scaled_planes
from ensembles.prepare.resizing import scaled
from planner.ingress import PrepareRecipe
from tests.ensembles.recipes import recipe

pytestmark = pytest.mark.skipif(
    turbojpeg.library() is None, reason=f"no {turbojpeg.LIBRARY} here; Debian has it as libturbojpeg0"
)


def picture(width: int, height: int, seed: int, noise: int) -> Frame:
    """Soft colours with sharp shapes on them, and noise: +-noise of 255."""
    rng = np.random.default_rng(seed)
    soft = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        corners = rng.integers(0, (width, height), (2, 2))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        cv2.rectangle(image, tuple(corners[0].tolist()), tuple(corners[1].tolist()), colour, -1)
    grain = rng.integers(-noise, noise + 1, image.shape)
    return np.clip(image.astype(int) + grain, 0, 255).astype(np.uint8)


def jpeg(image: Frame, sampling: str = "420", orientation: int = 1, **how: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(image).save(
        buffer, "JPEG", subsampling=f"4:{sampling[1]}:{sampling[2]}", exif=exif, **how
    )
    return buffer.getvalue()


MADE_UP = 5
"""Of 255, on average: more than two ways of making up chroma differ by. Frames of a hundred pixels with sharp
shapes and grain come to 3; a plane in the wrong place, or turned otherwise, to tens.
"""


def both_ways(data: bytes, wanted: PrepareRecipe) -> tuple[Frame | None, Frame]:
    header = read_header(data)
    place = placed(wanted, *header.upright)
    whole = decode(data, None, header, wanted.order)
    return scaled_planes(data, header, place, wanted), scaled(whole, place, wanted)


@given(
    st.tuples(st.integers(50, 150), st.integers(50, 150)),
    st.sampled_from(["422", "420"]),
    st.integers(1, 8),
    st.integers(40, 98),
    st.booleans(),
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.sampled_from(["bilinear", "antialias", "bicubic", "area"]),
    st.sampled_from(["rgb", "bgr"]),
    st.integers(0, 20),
    st.integers(0, 1 << 30),
)
def test_planes_become_what_whole_frames_become(
    half: tuple[int, int],
    sampling: str,
    orientation: int,
    quality: int,
    progressive: bool,
    fit: str,
    interpolation: str,
    order: str,
    noise: int,
    seed: int,
) -> None:
    image = picture(2 * half[0], 2 * half[1], seed, noise)
    data = jpeg(image, sampling, orientation, quality=quality, progressive=progressive)
    wanted = recipe((3, 32, 40), fit=fit, interpolation=interpolation, order=order)
    by_planes, whole = both_ways(data, wanted)
    assert by_planes is not None
    assert by_planes.shape == whole.shape
    assert np.abs(by_planes.astype(int) - whole).mean() <= MADE_UP


WHOLE = jpeg(picture(120, 90, 5, 3), quality=80)
PROGRESSIVE = jpeg(picture(120, 90, 5, 3), quality=80, progressive=True)
NOT_SMALLER = recipe((3, 90, 120))
SMALLER = recipe((3, 30, 40))


@given(st.sampled_from([WHOLE, PROGRESSIVE]), st.floats(0.3, 1))
def test_what_is_not_whole_is_refused_by_both_ways(whole: bytes, kept: float) -> None:
    data = whole[: int(kept * len(whole))]
    if len(data) == len(whole):
        return
    with pytest.raises(FrameFault, match="no complete JPEG"):
        encoded_pixels(data, SMALLER)
    with pytest.raises(FrameFault, match="no complete JPEG"):
        decode(data)


@given(st.integers(620, len(WHOLE) - 1), st.binary(min_size=1, max_size=40))
def test_damaged_files_become_pixels_or_a_fault(at: int, bytes_there: bytes) -> None:
    data = (WHOLE[:at] + bytes_there + WHOLE[at + len(bytes_there) :])[: len(WHOLE)]
    try:
        pixels = encoded_pixels(data, SMALLER)
    except FrameFault:
        return
    assert pixels.shape == (30, 40, 3)


def test_a_jpeg_of_a_thousand_empty_scans_is_refused() -> None:
    scan = PROGRESSIVE.rfind(b"\xff\xda")
    data = PROGRESSIVE[:scan] + 1_000 * PROGRESSIVE[scan:-2] + b"\xff\xd9"
    with pytest.raises(FrameFault, match="no complete JPEG"):
        encoded_pixels(data, SMALLER)


def test_what_lies_behind_an_image_is_ignored() -> None:
    expected = encoded_pixels(WHOLE, SMALLER)
    np.testing.assert_array_equal(encoded_pixels(WHOLE + b"more" + WHOLE, SMALLER), expected)


def rgb_jpeg() -> bytes:
    """Of red, green and blue instead of luma and chroma, which Adobe's marker says."""
    buffer = io.BytesIO()
    Image.fromarray(picture(120, 90, 5, 3)).save(buffer, "JPEG", keep_rgb=True)
    return buffer.getvalue()


def cmyk_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(120, 90, 5, 3)).convert("CMYK").save(buffer, "JPEG", subsampling="4:2:0")
    return buffer.getvalue()


def grey_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(120, 90, 5, 3)).convert("L").save(buffer, "JPEG")
    return buffer.getvalue()


OTHERS = {
    "as much chroma as luma": (jpeg(picture(120, 90, 5, 3), "444"), SMALLER),
    "an odd width": (jpeg(picture(121, 90, 5, 3)), SMALLER),
    "an odd height": (jpeg(picture(120, 91, 5, 3)), SMALLER),
    "grey": (grey_jpeg(), SMALLER),
    "RGB": (rgb_jpeg(), SMALLER),
    "CMYK": (cmyk_jpeg(), SMALLER),
    "another ratio": (simplejpeg.encode_jpeg(picture(120, 90, 5, 3), colorsubsampling="440"), SMALLER),
    "a frame that becomes no smaller": (WHOLE, NOT_SMALLER),
    "a frame that may be decoded smaller": (WHOLE, recipe((3, 30, 40), decode="reduced")),
    "a network that gets grey": (WHOLE, recipe((1, 30, 40))),
    "areas of chroma that do not shrink": (WHOLE, recipe((3, 60, 60), interpolation="area")),
}


@pytest.mark.parametrize("name", OTHERS)
def test_all_others_are_decoded_whole(name: str) -> None:
    data, wanted = OTHERS[name]
    header = read_header(data)
    assert scaled_planes(data, header, placed(wanted, *header.upright), wanted) is None
    assert encoded_pixels(data, wanted).shape == (wanted.height, wanted.width, wanted.channels)


def test_a_host_without_the_library_decodes_frames_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "library", lambda: None)
    _, whole = both_ways(WHOLE, SMALLER)
    np.testing.assert_array_equal(encoded_pixels(WHOLE, SMALLER), whole)


@given(
    st.sampled_from(["444", "422", "420"]),
    st.sampled_from([b"\x21\x11\x11", b"\x22\x11\x11"]),
    st.sampled_from([(0, 0), (-2, 0), (0, -2), (2, 0), (0, 2)]),
)
def test_a_file_that_the_library_reads_otherwise_than_our_header_is_left_alone(
    sampling: str, said: bytes, off: tuple[int, int]
) -> None:
    """The library writes as much as the file says, whatever room our header's numbers have made."""
    turbo = turbojpeg.library()
    assert turbo is not None
    data = jpeg(picture(64, 48, 1, 4), sampling)
    header = read_header(data)
    lying = replace(header, sampling=said, width=header.width + off[0], height=header.height + off[1])
    found = turbo.planes(data, lying)
    assert (found is None) == (lying != header)
