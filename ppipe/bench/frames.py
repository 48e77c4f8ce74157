"""Made-up pictures, and tensors for models that take no pictures, for load and demonstration: seeded, each
unlike the others, pictures encoded as real JPEG.

Rules: the same seed and number give the same picture; a picture has gradients, shapes and noise, so that
decoding it costs about what a photograph of its size costs.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from planner.profile import TensorSpec
from python_backend.wire.kserve import NUMPY_OF

WIDTH, HEIGHT = 320, 240
_SHAPES = 24
_SMALLEST = 4
_NOISE = 12.0
_QUALITY = 85


def make_pictures(
    count: int, seed: int, width: int = WIDTH, height: int = HEIGHT
) -> tuple[npt.NDArray[np.uint8], ...]:
    """`count` pictures, uint8 RGB, height x width x 3."""
    return tuple(_picture(np.random.default_rng((seed, index)), width, height) for index in range(count))


def make_tensors(tensor: TensorSpec, count: int, seed: int) -> tuple[npt.NDArray[Any], ...]:
    """`count` frames of a network's own input, without batch dimension: noise about a level and of a width
    that differ from frame to frame, in [0, 1) for floats, of numbers up to 255 for whole numbers.
    """
    return tuple(_tensor(tensor, np.random.default_rng((seed, index))) for index in range(count))


def make_inputs_of(
    tensors: Sequence[TensorSpec], count: int, seed: int
) -> list[tuple[npt.NDArray[Any], ...]]:
    """`count` frames of several inputs."""
    each = [make_tensors(tensor, count, seed + index) for index, tensor in enumerate(tensors)]
    return list(zip(*each, strict=True)) if each else [()] * count


def _tensor(tensor: TensorSpec, rng: np.random.Generator) -> npt.NDArray[Any]:
    low, high = np.sort(rng.uniform(0.0, 1.0, 2))
    levels = rng.uniform(low, high, (*tensor.shape[:1], *[1] * (len(tensor.shape) - 1)))
    values = np.clip(levels + (high - low) * (rng.random(tensor.shape) - 0.5), 0.0, np.nextafter(1.0, 0.0))
    dtype = np.dtype(NUMPY_OF[tensor.dtype])
    if dtype.kind == "b":
        return np.asarray(values > rng.random(), dtype=dtype)
    most = 1 if dtype.kind == "f" else 127 if tensor.dtype == "INT8" else 255
    return np.asarray(values * most, dtype=dtype)


def encode_jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _picture(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.uint8]:
    across = np.linspace(0.0, 1.0, width)[np.newaxis, :, np.newaxis]
    down = np.linspace(0.0, 1.0, height)[:, np.newaxis, np.newaxis]
    corner, right, low = rng.uniform(0.0, 255.0, (3, 3))
    ground = corner + (right - corner) * across + (low - corner) * down
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(_SHAPES):
        x, y = rng.integers(0, width), rng.integers(0, height)
        half_width = rng.integers(_SMALLEST, max(_SMALLEST + 1, width // 4))
        half_height = rng.integers(_SMALLEST, max(_SMALLEST + 1, height // 4))
        box = (int(x - half_width), int(y - half_height), int(x + half_width), int(y + half_height))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    noisy = np.asarray(image) + rng.normal(0.0, _NOISE, (height, width, 3))
    return np.asarray(noisy.clip(0, 255), dtype=np.uint8)
