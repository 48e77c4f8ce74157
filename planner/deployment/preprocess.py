"""`preprocess` of a model in a deployment file: what clients send, and how it becomes the network's input.

Rule: what stands beside a preset wins over it, field by field; `overrides` says where it did.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from planner.deployment.presets import PLAIN, PRESETS, Preset
from planner.deployment.spec import Name, Spec
from planner.frames import FrameSize
from planner.ingress import (
    Fit,
    FitKind,
    FrameKind,
    FrameLimits,
    ImageFormat,
    Interpolation,
    Layout,
    Order,
)

JPEG_BYTES_PER_PIXEL = 0.17
"""Of a JPEG whose size is not stated: 350 KB at 1920 x 1080."""
ROOM = 4
"""A frame may have so many times the pixels and bytes of the planned one, where limits are not stated."""
MOST_PIXELS = 89_478_485
"""Pillow decodes no more without a warning."""
_HEADER_BYTES = 65_536
_NUMBER = r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*"
_FITTED: dict[str, FitKind] = {"fill": "letterbox", "anchor": "letterbox", "share": "crop"}
"""Fields that say something of one kind of fit alone."""


def _quotient(value: Any) -> Any:
    """'1/255' as a number; YAML takes it for a text."""
    if isinstance(value, str) and (found := re.fullmatch(f"{_NUMBER}/{_NUMBER}", value, re.IGNORECASE)):
        above, below = map(float, found.groups())
        if below:
            return above / below
    return value


Ratio = Annotated[float, BeforeValidator(_quotient)]
PerChannel = Ratio | tuple[Ratio, ...]
Colour = Annotated[int, Field(ge=0, le=255)]


class FrameSpec(Spec):
    """What clients send for one frame, as planned with. `bytes` of a raw frame follow from its size."""

    width: int = Field(ge=1, le=65_535)
    height: int = Field(ge=1, le=65_535)
    bytes: int | None = Field(default=None, ge=1, le=1 << 30)


class PreprocessSpec(Spec):
    """Encoded or raw frames to the model's input, as planner.ingress has it. What is not stated is the
    preset's, or without one: OpenCV's bilinear resize to the network's size, RGB, ImageNet's mean and
    deviation.
    """

    kind: FrameKind = "jpeg"
    input: Name | None = None
    """Which of the network's inputs the frame becomes, where it has several; clients send the others."""
    preset: str | None = None
    frame: FrameSpec | None = None
    fit: FitKind | None = None
    interpolation: Interpolation | None = None
    fill: Colour | tuple[Colour, ...] | None = None
    anchor: Literal["centre", "corner"] | None = None
    share: Annotated[Ratio, Field(gt=0, le=1)] | None = None
    rounding: Literal["down", "half-up", "half-even"] | None = None
    order: Order | None = None
    layout: Layout = "nchw"
    scale: Annotated[Ratio, Field(gt=0)] | None = None
    mean: PerChannel | None = None
    std: PerChannel | None = None
    decode: Literal["full", "reduced"] = "full"
    formats: tuple[ImageFormat, ...] = Field(default=("jpeg", "png"), min_length=1)
    max_pixels: int | None = Field(default=None, ge=1, le=MOST_PIXELS)
    max_bytes: int | None = Field(default=None, ge=1, le=1 << 30)

    @model_validator(mode="after")
    def _consistent(self) -> PreprocessSpec:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is not one of {', '.join(PRESETS)}")
        self._check_raw()
        fit = self.fit or self.base.fit.kind
        for name, belongs_to in _FITTED.items():
            if getattr(self, name) is not None and fit != belongs_to:
                raise ValueError(f"'{name}' belongs to fit: {belongs_to}, and fit is {fit}; leave it out")
        self._check_limits()
        return self

    def _check_raw(self) -> None:
        frame = self.frame
        if self.kind != "raw":
            return
        if self.decode == "reduced":
            raise ValueError("decode: reduced belongs to kind: jpeg; raw pixels are not decoded")
        if frame is not None and frame.bytes not in (None, frame.width * frame.height * 3):
            where = f"frame.bytes {frame.bytes} of a raw frame of {frame.width} x {frame.height}"
            raise ValueError(f"{where}; leave it out, it is {frame.width * frame.height * 3}")

    def _check_limits(self) -> None:
        planned, limits = self.to_frame(), self.limits(0)
        if planned.pixels > limits.max_pixels:
            raise ValueError(
                f"max_pixels {limits.max_pixels} is less than the {planned.pixels} pixels of the planned "
                f"frame of {planned.width} x {planned.height}"
            )
        if planned.bytes > limits.max_bytes:
            raise ValueError(
                f"max_bytes {limits.max_bytes} is less than the {planned.bytes} bytes of the planned frame"
            )

    @property
    def base(self) -> Preset:
        """Whose values count where nothing is stated."""
        return PLAIN if self.preset is None else PRESETS[self.preset]

    def to_frame(self) -> FrameSize:
        """As the planner's type; what is not stated is assumed, and marked so."""
        width, height, size = 1920, 1080, None
        if self.frame is not None:
            width, height, size = self.frame.width, self.frame.height, self.frame.bytes
        assumed = self.frame is None or (size is None and self.kind == "jpeg")
        if size is None:
            size = (
                width * height * 3 if self.kind == "raw" else math.ceil(width * height * JPEG_BYTES_PER_PIXEL)
            )
        return FrameSize(width, height, size, assumed)

    def limits(self, needed: int) -> FrameLimits:
        """What is taken of clients; needed: pixels of the network's input."""
        planned = self.to_frame()
        most = self.max_pixels or ROOM * max(planned.pixels, needed)
        size = ROOM * planned.bytes
        if "png" in self.formats and self.kind == "jpeg":
            size = max(size, 3 * planned.pixels)  # without loss
        if self.kind == "raw":
            size = 3 * most
        return FrameLimits(self.formats, most, self.max_bytes or size + _HEADER_BYTES)

    def overrides(self) -> Iterator[str]:
        """What is stated and is not the preset's: a line each."""
        if self.preset is None:
            return
        base = self.base
        for name in ("scale", "mean", "std", "order"):
            stated, usual = getattr(self, name), getattr(base, name)
            if stated is not None and not _same(stated, usual):
                yield f"{name} is {_shown(stated)} as stated, not {self.preset}'s {_shown(usual)}"
        for field in dataclasses.fields(Fit):
            name = "fit" if field.name == "kind" else field.name
            stated, usual = getattr(self, name), getattr(base.fit, field.name)
            if stated is not None and not _same(stated, usual):
                yield f"{name} is {_shown(stated)} as stated, not {self.preset}'s {_shown(usual)}"


def _same(stated: Any, usual: Any) -> bool:
    if isinstance(usual, tuple):
        stated = stated if isinstance(stated, tuple) else (stated,)
        return len({*stated, *usual}) == 1 or stated == usual
    return bool(stated == usual)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(f'{number:g}' for number in value)}]"
    return f"{value:g}" if isinstance(value, float | int) else str(value)
