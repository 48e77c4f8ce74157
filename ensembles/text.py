"""Boxes of text from the map of a text detector: pure functions on numpy arrays.

A detector with differentiable binarisation (DBNet, as PP-OCR's is) answers, for every pixel, how likely it
lies in the shrunk middle of a line of text. Liao et al., Real-time Scene Text Detection with Differentiable
Binarization, AAAI 2020: pixels above a threshold that hang together are one line, and what was shrunk by
area * ratio / perimeter for training is widened by as much again. Here a line's smallest turned rectangle is
widened, each side by that distance; what is answered is the upright box around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ensembles.detection import Detections

Map = npt.NDArray[np.floating[Any]]
_SHORTEST = 3.0
"""Pixels of the short side of a line's middle, below which it is noise."""


@dataclass(frozen=True)
class TextRule:
    """threshold: of a pixel's probability. widening: the ratio above. min_score: mean of a line's middle."""

    threshold: float
    widening: float
    min_score: float
    max_boxes: int


def text_boxes(probabilities: Map, rule: TextRule) -> Detections:
    """Lines of text in a map [1, height, width]: boxes in its pixels, best first, all of class 0."""
    plane = np.ascontiguousarray(probabilities[0], dtype=np.float32)
    mask = (plane > rule.threshold).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    found = [line for contour in contours if (line := _line(plane, contour, rule)) is not None]
    best = sorted(found, key=lambda line: -line[1])[: rule.max_boxes]
    padding = rule.max_boxes - len(best)
    boxes = np.array([box for box, _ in best], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in best], np.float32)
    return Detections(
        boxes=np.pad(boxes, ((0, padding), (0, 0))),
        scores=np.pad(scores, (0, padding)),
        classes=np.pad(np.zeros(len(best), np.int32), (0, padding), constant_values=-1),
    )


def _line(plane: npt.NDArray[np.float32], contour: Any, rule: TextRule) -> tuple[list[float], float] | None:
    """(box, score) of one region of the mask; None where it is no text."""
    centre, (width, height), angle = cv2.minAreaRect(contour)
    if min(width, height) < _SHORTEST:
        return None
    score = _mean_inside(plane, contour)
    if score < rule.min_score:
        return None
    distance = width * height * rule.widening / (2 * (width + height))
    corners = cv2.boxPoints((centre, (width + 2 * distance, height + 2 * distance), angle))
    rows, columns = plane.shape
    left, top = corners.min(axis=0)
    right, bottom = corners.max(axis=0)
    return [max(0.0, left), max(0.0, top), min(float(columns), right), min(float(rows), bottom)], score


def _mean_inside(plane: npt.NDArray[np.float32], contour: Any) -> float:
    x, y, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), np.uint8)
    cv2.fillPoly(inside, [contour - np.array([[x, y]])], (1,))
    return float(plane[y : y + height, x : x + width][inside == 1].mean())
