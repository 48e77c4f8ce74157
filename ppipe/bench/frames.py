"""Made-up pictures for load and demonstration: seeded, each unlike the others, encoded as real JPEG.

Rules: the same seed and number give the same picture; a picture has gradients, shapes and noise, so that
decoding it costs about what a photograph of its size costs.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

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
