"""Smaller frames, to ask a network that is too large to be run a dozen times on a CPU.

Whether a frame's answer depends on the frames beside it, or on how many there are, lies in the code and
not in the size of the frames. So a large network is asked with small ones, where it takes them.

Rules
- Only the two sides of a picture shrink, all pictures of a frame alike; FLOPs are taken to follow their area.
- What is proposed need not be taken: whoever asks tries one after another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from planner.profile import TensorSpec
from planner.profiling.network import Specs

MOST_GFLOP_TO_RUN = 15.0
"""Of one frame. The checks run about twenty frames, at some 50 GFLOP/s on two cores."""
_WANTED_GFLOP = (1.5, MOST_GFLOP_TO_RUN / 2)
"""Of a smaller frame; the second for networks that need larger ones. Rounding sides may double it."""
_STEPS = (64, 32, 16, 8)
"""Sides stay whole numbers of these: networks halve them again and again."""
_MOST_CHANNELS = 4


def smaller_frames(inputs: Specs, gflop: float) -> Iterator[tuple[Specs, float]]:
    """Inputs with smaller pictures, and the GFLOP that they may have; nothing where there is no picture.

    `gflop`: of one frame as it is.
    """
    seen = {tuple(inputs)}
    for wanted in _WANTED_GFLOP:
        share = math.sqrt(wanted / gflop)
        for step in _STEPS:
            made = tuple(_shrunk(spec, share, step) for spec in inputs)
            if made not in seen:
                seen.add(made)
                yield made, 2 * wanted


def shapes_text(inputs: Specs) -> str:
    """'[3, 64, 64]', of several inputs with 'and' between."""
    return " and ".join(str(list(spec.shape)) for spec in inputs)


def _shrunk(spec: TensorSpec, share: float, step: int) -> TensorSpec:
    if len(spec.shape) < 3:
        return spec
    shape = list(spec.shape)
    last = len(shape) - (1 if shape[-1] > _MOST_CHANNELS else 2)  # [.., height, width] or [.., channels]
    for side in (last - 1, last):
        least = min(step, shape[side])
        shape[side] = min(shape[side], max(least, round(shape[side] * share / step) * step))
    return replace(spec, shape=tuple(shape))
