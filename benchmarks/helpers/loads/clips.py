"""Short clips, drawn: shapes that move over a ground with noise."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 320, 240
FPS = 10


def draw_clip(
    path: Path, seconds: float = 2.0, seed: int = 0, codec: str = "libx264", fps: int = FPS
) -> Path:
    """Writes a clip to `path`, by whose suffix its container goes; the same seed draws the same one."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(40, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    colour = rng.integers(128, 256, 3, dtype=np.uint8)
    size, (x, y), (dx, dy) = 48, rng.integers(0, 180, 2), rng.integers(2, 7, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(round(seconds * fps)):
            image = ground.copy()
            left, top = (x + number * dx) % (WIDTH - size), (y + number * dy) % (HEIGHT - size)
            image[top : top + size, left : left + size] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path
