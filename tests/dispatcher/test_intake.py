"""What a client may send to a public model, and what it is told otherwise."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ensembles.graphs import frame_input
from planner.frames import FrameSize
from planner.ingress import FrameLimits, PrepareRecipe
from planner.manifest import ModelEntry
from planner.profile import TensorSpec
from python_backend.dispatcher.intake import Intake
from python_backend.wire.ragged import FrameInfo, FrameKind
from tests.dispatcher.test_driver import manifest

OWN = TensorSpec("image", "FP32", (3, 4, 5))


def entry(kind: Any) -> ModelEntry:
    recipe = PrepareRecipe(
        kind=kind,
        frame=frame_input(kind),
        channels=3,
        height=4,
        width=5,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        planned=FrameSize(640, 480, 50_000),
    )
    return replace(manifest().models[0], input=OWN, prepare=recipe)


def encoded(data: bytes, count: int = 1) -> Any:
    return np.array([[data]] * count, dtype=np.object_)


def picture(kind: str, width: int = 30, height: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_is_described_by_its_header(kind: str) -> None:
    data, info = Intake(entry("jpeg")).take({"jpeg": encoded(picture(kind))})
    assert bytes(data) == picture(kind)
    assert info == FrameInfo(FrameKind.ENCODED, len(data), 30, 20)


def test_pixels_and_tensors_are_described_by_their_shape() -> None:
    pixels = np.arange(2 * 7 * 3, dtype=np.uint8).reshape(1, 2, 7, 3)
    data, info = Intake(entry("raw")).take({"frame": pixels})
    assert bytes(data) == pixels.tobytes()
    assert info == FrameInfo(FrameKind.PIXELS, 42, 7, 2)
    own = np.ones((1, *OWN.shape), np.float32)
    for kind in ("raw", "jpeg"):
        data, info = Intake(entry(kind)).take({"image": own})
        assert bytes(data) == own.tobytes()
        assert info == FrameInfo(FrameKind.TENSOR, 240)


def test_a_model_that_prepares_nothing_describes_nothing() -> None:
    plain = replace(entry("raw"), prepare=None)
    _, info = Intake(plain).take({"image": np.ones((1, *OWN.shape), np.float32)})
    assert info is None
    assert Intake(plain).names == ("image",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "one of the inputs jpeg, image belongs in a request, not none"),
        ({"jpeg": encoded(b"x"), "image": np.zeros((1, 3, 4, 5), np.float32)}, "not jpeg, image"),
        ({"jpeg": encoded(b"")}, "input jpeg: 0 bytes that are no complete JPEG or PNG image"),
        ({"jpeg": encoded(b"no image")}, "input jpeg: 8 bytes that are no"),
        ({"jpeg": encoded(picture("JPEG"), 2)}, r"input jpeg: \[2, 1\] images; one frame per request"),
        ({"image": np.zeros((2, 3, 4, 5), np.float32)}, "one frame per request belongs: FP32 [1, 3, 4, 5]"),
        ({"image": np.zeros((1, 3, 4, 5), np.float64)}, "input image: float64"),
    ],
)
def test_what_cannot_be_taken_is_told(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said if "\\" in said else said.replace("[", r"\[")):
        Intake(entry("jpeg")).take(given)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (FrameLimits(max_bytes=300), r"input jpeg: an image of \d+ bytes; at most 300 are taken"),
        (FrameLimits(max_pixels=599), "input jpeg: an image of 30 x 20 pixels; at most 599 are decoded"),
        (FrameLimits(formats=("png",)), "input jpeg: a JPEG image; PNG is taken"),
    ],
)
def test_what_is_beyond_the_models_limits_is_told(limits: FrameLimits, said: str) -> None:
    limited = entry("jpeg")
    assert limited.prepare is not None
    limited = replace(limited, prepare=replace(limited.prepare, limits=limits))
    with pytest.raises(ValueError, match=said):
        Intake(limited).take({"jpeg": encoded(picture("JPEG"))})


def test_raw_frames_are_limited_and_of_bytes() -> None:
    limited = entry("raw")
    assert limited.prepare is not None
    limited = replace(limited, prepare=replace(limited.prepare, limits=FrameLimits(max_pixels=5)))
    with pytest.raises(ValueError, match="input frame: a frame of 3 x 2 pixels; at most 5 are taken"):
        Intake(limited).take({"frame": np.zeros((1, 2, 3, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"input frame: int8 .*UINT8"):
        Intake(entry("raw")).take({"frame": np.zeros((1, 2, 3, 3), np.int8)})


@pytest.mark.parametrize("shape", [(1, 0, 3, 3), (1, 2, 2, 4), (2, 2, 2, 3)])
def test_pixels_of_another_shape_are_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input frame: uint8 .*UINT8 \[1, height, width, 3\]"):
        Intake(entry("raw")).take({"frame": np.zeros(shape, np.uint8)})
