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
    return with_inputs(replace(manifest().models[0], input=OWN, prepare=recipe), OWN)


def with_inputs(model: ModelEntry, *inputs: TensorSpec) -> ModelEntry:
    """The model with a network of these inputs."""
    first, *rest = model.programs[0]
    return replace(model, programs=((replace(first, inputs=inputs), *rest),))


def encoded(data: bytes, count: int = 1) -> Any:
    return np.array([[data]] * count, dtype=np.object_)


def picture(kind: str, width: int = 30, height: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_is_described_by_its_header(kind: str) -> None:
    ((data, info),) = Intake(entry("jpeg")).take({"jpeg": encoded(picture(kind))})
    assert bytes(data) == picture(kind)
    assert info == FrameInfo(FrameKind.ENCODED, len(data), 30, 20)


def test_pixels_and_tensors_are_described_by_their_shape() -> None:
    pixels = np.arange(2 * 7 * 3, dtype=np.uint8).reshape(1, 2, 7, 3)
    ((data, info),) = Intake(entry("raw")).take({"frame": pixels})
    assert bytes(data) == pixels.tobytes()
    assert info == FrameInfo(FrameKind.PIXELS, 42, 7, 2)
    own = np.ones((1, *OWN.shape), np.float32)
    for kind in ("raw", "jpeg"):
        ((data, info),) = Intake(entry(kind)).take({"image": own})
        assert bytes(data) == own.tobytes()
        assert info == FrameInfo(FrameKind.TENSOR, 240)


def test_a_model_that_prepares_nothing_describes_nothing() -> None:
    plain = replace(entry("raw"), prepare=None)
    ((_, info),) = Intake(plain).take({"image": np.ones((1, *OWN.shape), np.float32)})
    assert info is None
    assert Intake(plain).names == ("image",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "expected one of the inputs jpeg, image in a request, not none"),
        ({"jpeg": encoded(b"x"), "image": np.zeros((1, 3, 4, 5), np.float32)}, "not jpeg, image"),
        ({"jpeg": encoded(b"")}, "input jpeg: 0 bytes that are no complete JPEG or PNG image"),
        ({"jpeg": encoded(b"no image")}, "input jpeg: 8 bytes that are no"),
        ({"jpeg": np.array([[b"x", b"y"]], dtype=object)}, r"input jpeg: \[1, 2\] images; .*BYTES \[n, 1\]"),
        ({"image": np.zeros((2, 3, 4, 6), np.float32)}, "expected frames: FP32 [n, 3, 4, 5]"),
        ({"image": np.zeros((0, 3, 4, 5), np.float32)}, "frames in the request: image 0"),
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


@pytest.mark.parametrize("shape", [(1, 0, 3, 3), (1, 2, 2, 4), (1, 2, 3)])
def test_pixels_of_another_shape_are_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input frame: uint8 .*UINT8 \[n, height, width, 3\]"):
        Intake(entry("raw")).take({"frame": np.zeros(shape, np.uint8)})


def test_a_request_of_several_frames_is_taken_apart_and_names_the_one_that_is_wrong() -> None:
    images = [picture("JPEG", 8 + number, 8) for number in range(3)]
    taken = Intake(entry("jpeg")).take({"jpeg": np.array([[image] for image in images], dtype=np.object_)})
    assert [bytes(data) for data, _ in taken] == images
    assert [info.width for _, info in taken if info is not None] == [8, 9, 10]
    with pytest.raises(ValueError, match="frame 1 of 2: input jpeg: 1 bytes that are no"):
        Intake(entry("jpeg")).take({"jpeg": np.array([[images[0]], [b"x"]], dtype=np.object_)})
    pixels = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    assert [bytes(data) for data, _ in Intake(entry("raw")).take({"frame": pixels})] == [
        frame.tobytes() for frame in pixels
    ]


SIZE = TensorSpec("size", "INT64", (2,))


def test_what_a_network_takes_beside_the_frame_follows_its_bytes() -> None:
    model = with_inputs(entry("jpeg"), SIZE, OWN)
    intake = Intake(model)
    assert intake.names == ("jpeg", "image", "size")
    sizes = np.array([[1, 2], [3, 4]])
    image = picture("JPEG")
    taken = intake.take({"jpeg": encoded(image, 2), "size": sizes})
    assert [bytes(data) for data, _ in taken] == [image + size.tobytes() for size in sizes]
    assert [info.size for _, info in taken if info is not None] == [len(image) + 16] * 2
    with pytest.raises(ValueError, match="expected the inputs jpeg, size in a request, not jpeg"):
        intake.take({"jpeg": encoded(image)})
    with pytest.raises(ValueError, match="frames in the request: jpeg 1, size 2"):
        intake.take({"jpeg": encoded(image), "size": sizes})


def test_without_preprocessing_all_inputs_come_in_the_networks_order() -> None:
    model = replace(with_inputs(entry("raw"), SIZE, OWN), prepare=None)
    own, size = np.ones((1, *OWN.shape), np.float32), np.array([[5, 6]])
    ((data, info),) = Intake(model).take({"image": own, "size": size})
    assert (bytes(data), info) == (size.tobytes() + own.tobytes(), None)
