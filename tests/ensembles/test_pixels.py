"""Frames to inputs: each fit, interpolation, order and layout against a plain reading of its rule."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ensembles.prepare.faults import FrameFault
from ensembles.prepare.fitting import geometry, placed
from ensembles.prepare.pixels import encoded_input, encoded_pixels, normalised, raw_input, raw_pixels
from tests.ensembles.recipes import recipe

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIDES = st.integers(1, 90)


def frame(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image_bytes(pixels: npt.NDArray[np.uint8], kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9))
def test_normalising_is_what_torch_does(height: int, width: int, seed: int) -> None:
    pixels = frame(height, width, seed)
    ours = normalised(pixels, recipe((3, height, width)))
    scaled = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in IMAGENET)
    np.testing.assert_allclose(ours, ((scaled - mean) / std).numpy(), atol=1e-5)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous


def test_interpolations_are_their_libraries() -> None:
    pixels = frame(60, 80)
    expected = {
        "bilinear": cv2.resize(pixels, (16, 8), interpolation=cv2.INTER_LINEAR),
        "area": cv2.resize(pixels, (16, 8), interpolation=cv2.INTER_AREA),
        "antialias": np.asarray(Image.fromarray(pixels).resize((16, 8), Image.Resampling.BILINEAR)),
        "bicubic": np.asarray(Image.fromarray(pixels).resize((16, 8), Image.Resampling.BICUBIC)),
    }
    for name, right in expected.items():
        np.testing.assert_array_equal(raw_pixels(pixels, recipe(interpolation=name)), right)
    same = raw_pixels(pixels, recipe((3, 60, 80)))
    np.testing.assert_array_equal(same, pixels)


def test_a_letterbox_keeps_the_ratio_and_fills_the_rest_in_the_networks_order() -> None:
    pixels = frame(20, 40)
    wanted = recipe((3, 16, 16), fit="letterbox", fill=[1, 2, 3], order="bgr")
    boxed = raw_pixels(pixels, wanted)
    inner = cv2.resize(pixels, (16, 8), interpolation=cv2.INTER_LINEAR)[:, :, ::-1]
    np.testing.assert_array_equal(boxed[4:12], inner)
    assert {tuple(pixel) for pixel in np.concatenate((boxed[:4], boxed[12:])).reshape(-1, 3)} == {(1, 2, 3)}
    corner = raw_pixels(pixels, recipe((3, 16, 16), fit="letterbox", anchor="corner"))
    assert np.all(corner[8:] == 114)


def test_a_crop_takes_the_middle_of_what_covers() -> None:
    pixels = frame(32, 64)
    cropped = raw_pixels(pixels, recipe((3, 8, 8), fit="crop", share="8/16"))
    inner = cv2.resize(pixels, (32, 16), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(cropped, inner[4:12, 12:20])


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["stretch", "letterbox", "crop"]), st.data())
def test_every_frame_fits_and_its_corners_are_found_again(
    width: int, height: int, wide: int, high: int, fit: str, data: st.DataObject
) -> None:
    more: dict[str, Any] = {"rounding": data.draw(st.sampled_from(["down", "half-up", "half-even"]))}
    if fit == "letterbox":
        more["anchor"] = data.draw(st.sampled_from(["centre", "corner"]))
    if fit == "crop":
        more["share"] = data.draw(st.floats(0.2, 1))
    wanted = recipe((3, high, wide), fit=fit, **more)
    assert raw_pixels(frame(height, width), wanted).shape == (high, wide, 3)
    place = placed(wanted, width, height)
    if fit == "letterbox":
        assert place.left >= 0 <= place.top
        assert place.left + place.width <= wide
        assert place.top + place.height <= high
    corners = [place.left, place.top, place.left + place.width, place.top + place.height]
    found = geometry(wanted, width, height).to_frame(np.array([corners], np.float32))
    np.testing.assert_allclose(found, [[0, 0, width, height]], atol=1e-3)


def test_a_mark_is_found_where_its_box_says() -> None:
    """Whatever the fit: what the network sees at a place lies where the geometry says in the frame."""
    pixels = np.zeros((90, 160, 3), np.uint8)
    pixels[40:50, 90:100] = 255
    for more in ({"fit": "stretch"}, {"fit": "letterbox"}, {"fit": "letterbox", "anchor": "corner"},
                 {"fit": "crop", "share": 0.8}):  # fmt: skip
        wanted = recipe((3, 64, 64), fill=0, **more) if "letterbox" in more.values() else recipe(
            (3, 64, 64), **more)  # fmt: skip
        rows, columns = np.nonzero(raw_pixels(pixels, wanted)[:, :, 0] > 127)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        found = geometry(wanted, 160, 90).to_frame(np.array([box], np.float32))[0]
        np.testing.assert_allclose(found, [90, 40, 100, 50], atol=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orders_of_channels(kind: str) -> None:
    pixels = np.full((8, 16, 3), (200, 100, 50), np.uint8)
    data = image_bytes(pixels, kind)
    for order, right in {"rgb": (200, 100, 50), "bgr": (50, 100, 200), "grey": (124,) * 3}.items():
        found = encoded_pixels(data, recipe(order=order))
        assert np.abs(found.astype(int) - right).max() <= 2, order
        assert np.abs(raw_pixels(pixels, recipe(order=order)).astype(int) - right).max() <= 1
    grey = encoded_pixels(data, recipe((1, 8, 16)))
    assert grey.shape == (8, 16, 1)
    assert np.abs(grey.astype(int) - 124).max() <= 1


def test_layouts_and_types() -> None:
    pixels = frame(8, 16)
    channels_last = raw_input(pixels, recipe((8, 16, 3), layout="nhwc"))
    np.testing.assert_array_equal(channels_last.transpose(2, 0, 1), raw_input(pixels, recipe()))
    half = raw_input(pixels, recipe(dtype="FP16"))
    assert half.dtype == np.float16
    as_it_is = raw_input(pixels, recipe(dtype="UINT8"))
    np.testing.assert_array_equal(as_it_is, pixels.transpose(2, 0, 1))
    assert raw_input(pixels, recipe(scale=1, mean=0, std=1)).max() == pixels.max()


def test_a_large_jpeg_may_be_decoded_smaller_and_hardly_differs() -> None:
    coarse = Image.fromarray(frame(27, 48)).resize((960, 540), Image.Resampling.BICUBIC)
    jpeg = image_bytes(np.asarray(coarse), "JPEG")
    whole = encoded_input(jpeg, recipe((3, 56, 56), interpolation="antialias"))
    reduced = encoded_input(jpeg, recipe((3, 56, 56), interpolation="antialias", decode="reduced"))
    assert 0 < np.abs(reduced - whole).mean() < 0.02


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_a_frame_of_another_shape_or_type_is_a_fault(bad: npt.NDArray[Any]) -> None:
    with pytest.raises(FrameFault, match=r"expected uint8 \[height, width, 3\]"):
        raw_pixels(bad, recipe())


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_bytes": 100}, "an image of .* bytes; at most 100 are taken"),
        ({"max_pixels": 1000}, "an image of 40 x 30 pixels; at most 1000 are decoded"),
        ({"formats": ["jpeg"]}, "a PNG image; JPEG is taken"),
    ],
)
def test_limits_are_told_before_anything_is_decoded(limits: dict[str, Any], said: str) -> None:
    planned = {"width": 8, "height": 8, "bytes": 90}
    wanted = recipe(frame=planned, **limits)
    with pytest.raises(FrameFault, match=said):
        encoded_pixels(image_bytes(frame(30, 40), "PNG")[: None if "pixels" not in said else 60], wanted)
