"""What a client sends for one frame, and what it costs outside the stages. Data only.

Times are microseconds on one core, for one frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FrameSize:
    """A frame as its client sends it. width, height: 0 for a tensor that nobody prepares.

    assumed: nobody stated it, so the plan says that it rests on a guess.
    """

    width: int
    height: int
    bytes: int
    assumed: bool = False

    def __post_init__(self) -> None:
        if self.bytes < 1:
            raise ValueError(f"frame of {self.bytes} bytes; accepted is any whole number >= 1")
        if min(self.width, self.height) < 0:
            raise ValueError(f"frame of {self.width} x {self.height} pixels; accepted are numbers >= 0")

    @property
    def pixels(self) -> int:
        """Of the frame as it is sent."""
        return self.width * self.height


@dataclass(frozen=True)
class FrameCost:
    """Time of one core per frame: fixed_us + us_per_pixel * pixels + us_per_byte * bytes."""

    fixed_us: float = 0.0
    us_per_pixel: float = 0.0
    us_per_byte: float = 0.0

    def __post_init__(self) -> None:
        for name in ("fixed_us", "us_per_pixel", "us_per_byte"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"cost per frame: {name} {value}; accepted is any number >= 0")

    def us(self, pixels: int, size: int) -> float:
        """Of a frame of so many pixels and bytes."""
        return self.fixed_us + self.us_per_pixel * pixels + self.us_per_byte * size


NO_COST = FrameCost()
