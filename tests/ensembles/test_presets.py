"""Presets against numbers that the libraries' own code gave, written down in preset_numbers.json.

The frames are made of a formula; the network's input is 3 x 6 x 6. What ran: torchvision 0.29
_compute_resized_output_size, center_crop and Pillow's resize; timm 1.0.31 and CLIP the same with their share,
filter and numbers; mmcv 2.2 imresize, imrescale, imnormalize with mmpretrain's ResizeEdge and CenterCrop and
mmdet's Pad and DetDataPreprocessor; ultralytics 8.4 LetterBox; YOLOX 0.3 preproc; keras 3
_preprocess_numpy_input after a bilinear resize with half-pixel centres, as tf.image.resize does it.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ensembles.prepare.pixels import encoded_input, raw_input
from planner.deployment.presets import PRESETS
from tests.ensembles.recipes import recipe

SIZES = ((53, 37), (37, 61), (9, 5))
NUMBERS: dict[str, list[list[float]]] = json.loads(
    (Path(__file__).parent / "preset_numbers.json").read_text(encoding="utf-8")
)


def frame(width: int, height: int) -> npt.NDArray[np.uint8]:
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((x * x * (c + 2) + 17 * y * (c + 1) + 31 * x * y // 7) % 256).astype(np.uint8)


def off(name: str, given: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    """Largest difference, in steps of a pixel's value: 1 is 1/255 of the range."""
    preset = PRESETS[name]
    step = preset.scale / np.asarray(preset.std)[:, None, None]
    return float(np.max(np.abs(given - right) / step))


def test_every_preset_has_numbers() -> None:
    assert NUMBERS.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_librarys_arithmetic(name: str) -> None:
    for (width, height), numbers in zip(SIZES, NUMBERS[name], strict=True):
        given = raw_input(frame(width, height), recipe((3, 6, 6), preset=name))
        right = np.asarray(numbers, np.float32).reshape(3, 6, 6)
        assert off(name, given, right) <= 1, (width, height)


@pytest.mark.parametrize("name", PRESETS)
def test_an_encoded_frame_becomes_what_its_pixels_become(name: str) -> None:
    pixels, buffer = frame(53, 37), io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    wanted = recipe((3, 6, 6), preset=name)
    np.testing.assert_array_equal(encoded_input(buffer.getvalue(), wanted), raw_input(pixels, wanted))


@pytest.mark.parametrize("name", ["torchvision", "mmcv", "yolo"])
def test_a_jpeg_is_decoded_as_its_library_decodes_it(name: str) -> None:
    """torchvision reads with Pillow, the others with OpenCV; decoding apart is 2/255 in the mean."""
    smooth = np.asarray(Image.fromarray(frame(53, 37)).resize((640, 480), Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    if name == "torchvision":
        decoded = np.asarray(Image.open(io.BytesIO(data)))
    else:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    wanted = recipe((3, 96, 96), preset=name)
    step = PRESETS[name].scale / np.asarray(PRESETS[name].std)[:, None, None]
    difference = encoded_input(data, wanted) - raw_input(np.ascontiguousarray(decoded), wanted)
    assert np.mean(np.abs(difference) / step) <= 2
