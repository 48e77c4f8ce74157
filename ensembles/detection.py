"""Postprocessing of detectors and segmenters: pure functions on numpy arrays.

Boxes are left, top, right, bottom in pixels of the model's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Suppression:
    """How many boxes to answer, from which score on, and how much two of one class may overlap."""

    max_boxes: int
    min_score: float
    max_overlap: float


@dataclass(frozen=True)
class Detections:
    """Boxes [max_boxes, 4], best first; rows past the last one have score 0 and class -1."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int32]


def detect(boxes: Floats, scores: Floats, rule: Suppression) -> Detections:
    """Of candidate boxes [n, 4] with scores [n, classes], those that no better box of their class covers.

    Each candidate counts once, as its best class. Ties: the earlier candidate first.
    """
    classes = scores.argmax(axis=1)
    best = scores[np.arange(len(scores)), classes].astype(np.float32)
    order = np.argsort(-best, kind="stable")
    order = order[best[order] >= rule.min_score]
    kept = _suppress(boxes.astype(np.float32), classes, order, rule)
    padding = rule.max_boxes - len(kept)
    return Detections(
        boxes=np.pad(boxes[kept].astype(np.float32), ((0, padding), (0, 0))),
        scores=np.pad(best[kept], (0, padding)),
        classes=np.pad(classes[kept].astype(np.int32), (0, padding), constant_values=-1),
    )


def overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union of one box [4] with others [n, 4]; 0 where both are empty."""
    width = np.clip(np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0]), 0, None)
    height = np.clip(np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1]), 0, None)
    common = width * height
    union = _area(box[None])[0] + _area(others) - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def label_map(scores: Floats) -> npt.NDArray[np.uint8]:
    """The best class of each pixel, from scores [..., classes, height, width]; at most 256 classes."""
    return np.asarray(scores.argmax(axis=-3), dtype=np.uint8)


def _suppress(
    boxes: Floats, classes: npt.NDArray[np.intp], order: npt.NDArray[np.intp], rule: Suppression
) -> list[int]:
    kept: list[int] = []
    while len(order) and len(kept) < rule.max_boxes:
        first, order = int(order[0]), order[1:]
        kept.append(first)
        covered = overlaps(boxes[first], boxes[order]) > rule.max_overlap
        order = order[~(covered & (classes[order] == classes[first]))]
    return kept


def _area(boxes: Floats) -> Floats:
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    return np.asarray(sides[:, 0] * sides[:, 1])
