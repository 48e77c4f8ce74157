"""What clients of a model send, how that becomes the network's input, and the network's output an answer.

Only data: it is part of deployment.json, so that every host does the same. The work is `ensembles`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.frames import FrameSize
from planner.profile import TensorSpec

JPEG_INPUT = "jpeg"
RAW_INPUT = "frame"

FrameKind = Literal["jpeg", "raw"]
FitKind = Literal["stretch", "letterbox", "crop"]
Interpolation = Literal["bilinear", "antialias", "bicubic", "area"]
Order = Literal["rgb", "bgr", "grey"]
Layout = Literal["nchw", "nhwc"]
InputDtype = Literal["FP32", "FP16", "UINT8"]
ImageFormat = Literal["jpeg", "png"]


@dataclass(frozen=True)
class Fit:
    """How a frame of any size comes to be the network's width x height.

    kind: "stretch" changes the aspect ratio; "letterbox" keeps it and fills what is left with `fill`, in the
    network's channel order, the frame in the middle or in the upper left corner; "crop" keeps it, makes the
    frame cover the network's size / `share`, and takes the middle.
    rounding: of the side that follows from the other one. Libraries differ, and a pixel more or less moves
    every value.
    """

    kind: FitKind = "stretch"
    interpolation: Interpolation = "bilinear"
    fill: tuple[int, ...] = (114,)
    anchor: Literal["centre", "corner"] = "centre"
    share: float = 1.0
    rounding: Literal["down", "half-up", "half-even"] = "half-even"


@dataclass(frozen=True)
class FrameLimits:
    """What is taken of clients, told by a frame's header before anything is decoded. The defaults are those
    of a planned frame of 1920 x 1080 (planner.deployment.preprocess).
    """

    formats: tuple[ImageFormat, ...] = ("jpeg", "png")
    max_pixels: int = 8_294_400
    max_bytes: int = 6_286_336


@dataclass(frozen=True)
class PrepareRecipe:
    """From a client's frame to the network's input, on the host of the first stage.

    kind: what `frame` is, encoded images or raw pixels. A value of the input is (pixel * scale - mean) / std,
    with one mean and deviation for each channel in the network's order; the first stage's program does that,
    to the uint8 pixels that preparing gives. An input of UINT8 is the pixels as they are. reduced: a JPEG may
    be decoded at a half, a quarter or an eighth of its size, as long as that is twice what the fit needs.
    planned: a client's frame as planned with.
    """

    kind: FrameKind
    frame: TensorSpec
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    planned: FrameSize
    limits: FrameLimits = FrameLimits()
    fit: Fit = Fit()
    order: Order = "rgb"
    layout: Layout = "nchw"
    dtype: InputDtype = "FP32"
    scale: float = 1 / 255
    reduced: bool = False


def frame_input(kind: FrameKind) -> TensorSpec:
    """What a client sends: an encoded image, or an RGB frame of any size (uint8, height x width x 3)."""
    if kind == "jpeg":
        return TensorSpec(name=JPEG_INPUT, dtype="BYTES", shape=(1,))
    return TensorSpec(name=RAW_INPUT, dtype="UINT8", shape=(-1, -1, 3))


@dataclass(frozen=True)
class FinishRecipe:
    """From the network's outputs, by these names, to an answer, on the host of the last stage.

    labels: file of one label per class, relative to deployment.json's folder; '' without one.
    raw: whether the network's own outputs are answered too.
    """

    task: Literal["classification", "detection", "segmentation", "text", "reading"]
    inputs: tuple[str, ...]
    outputs: tuple[TensorSpec, ...]
    top_k: int = 0
    max_boxes: int = 0
    min_score: float = 0.0
    max_overlap: float = 1.0
    labels: str = ""
    raw: bool = False
    threshold: float = 0.0
    widening: float = 0.0
