"""What a client sends for one frame, and what it costs outside the stages. Data only.

Times are microseconds on one core, for one frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace


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
    """Time of one core per frame: fixed_us + us_per_pixel * pixels + us_per_byte * bytes.

    assumed: nobody measured it.
    """

    fixed_us: float = 0.0
    us_per_pixel: float = 0.0
    us_per_byte: float = 0.0
    assumed: bool = False

    def __post_init__(self) -> None:
        for name in ("fixed_us", "us_per_pixel", "us_per_byte"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"cost per frame: {name} {value}; accepted is any number >= 0")

    def times(self, factor: float) -> FrameCost:
        """The cost on a core so many times slower."""
        return replace(
            self,
            fixed_us=self.fixed_us * factor,
            us_per_pixel=self.us_per_pixel * factor,
            us_per_byte=self.us_per_byte * factor,
        )

    def us(self, pixels: int, size: int) -> float:
        """Of a frame of so many pixels and bytes."""
        return self.fixed_us + self.us_per_pixel * pixels + self.us_per_byte * size


NO_COST = FrameCost()
ASSUMED_PREPARE: Mapping[str, FrameCost] = {
    "jpeg": FrameCost(fixed_us=100.0, us_per_pixel=0.0017, us_per_byte=0.0045, assumed=True),
    "raw": FrameCost(fixed_us=50.0, us_per_pixel=0.0004, assumed=True),
}
"""By kind of frame, until it is profiled: 5.2 ms for a JPEG of 1920 x 1080 and 350 KB, 0.9 ms for raw
pixels."""
_FILTER_US = 0.004
"""More per pixel of the frame where the filter widens with the factor: antialias, bicubic, area."""


def assumed_prepare(kind: str, interpolation: str) -> FrameCost:
    """Of a kind of frame and a way to resize it."""
    cost = ASSUMED_PREPARE[kind]
    if interpolation == "bilinear":
        return cost
    return replace(cost, us_per_pixel=cost.us_per_pixel + _FILTER_US)


ASSUMED_DISPATCH = FrameCost(fixed_us=350.0, us_per_byte=0.0011, assumed=True)
"""Of a dispatcher's process, until it is stated: 2,900 small frames/s, 990 of 600 KB."""
ASSUMED_ENTRY = FrameCost(fixed_us=800.0, us_per_byte=0.001, assumed=True)
"""Of the entry, until it is profiled: 1.15 ms for a frame of 350 KB."""
