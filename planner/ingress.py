"""What clients of a model send, how that becomes the network's input, and the network's output an answer.

Only data: it is part of deployment.json, so that every host does the same. The work is `ensembles`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.frames import FrameSize
from planner.profile import TensorSpec


@dataclass(frozen=True)
class PrepareRecipe:
    """From a client's frame to the network's input, on the host of the first stage.

    kind: what `frame` is, encoded images or raw pixels. mean, std: per channel, of values in [0, 1]; applied
    by the first stage to the uint8 pixels that preparing gives. planned: a client's frame as planned with.
    """

    kind: Literal["jpeg", "raw"]
    frame: TensorSpec
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    planned: FrameSize


@dataclass(frozen=True)
class FinishRecipe:
    """From the network's outputs, by these names, to an answer, on the host of the last stage.

    labels: file of one label per class, relative to deployment.json's folder; '' without one.
    raw: whether the network's own outputs are answered too.
    """

    task: Literal["classification", "detection", "segmentation"]
    inputs: tuple[str, ...]
    outputs: tuple[TensorSpec, ...]
    top_k: int = 0
    max_boxes: int = 0
    min_score: float = 0.0
    max_overlap: float = 1.0
    labels: str = ""
    raw: bool = False
