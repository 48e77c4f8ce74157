"""From a network's outputs to what clients are answered, for a batch: top classes, boxes, label maps.

Boxes come back in pixels of the frame as the client sent it, upright, whatever the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensembles.detection import Detections, Suppression, detect, label_map
from ensembles.graphs import (
    CLASSES,
    DETECTED_BOXES,
    DETECTED_CLASSES,
    DETECTED_SCORES,
    LABEL_MAP,
    LABELS,
    READ_SCORE,
    READ_TEXT,
    SCORES,
)
from ensembles.prepare.fitting import Geometry, geometry
from ensembles.reading import read_line
from ensembles.steps import labels_of, top_k
from planner.ingress import FinishRecipe, PrepareRecipe

Arrays = Mapping[str, npt.NDArray[Any]]


def geometries(sizes: Sequence[tuple[int, int]], recipe: PrepareRecipe | None) -> list[Geometry]:
    """Of frames of these (width, height), as they are shown; (0, 0): the client prepared by itself."""
    return [Geometry() if recipe is None or 0 in size else geometry(recipe, *size) for size in sizes]


def read_labels(recipe: FinishRecipe, root: Path) -> list[str] | None:
    """The lines of the label file, if there is one; `root`: deployment.json's folder. Raises OSError."""
    if not recipe.labels:
        return None
    return (root / recipe.labels).read_text(encoding="utf-8").removesuffix("\n").split("\n")


class Finisher:
    """See the module."""

    def __init__(self, recipe: FinishRecipe, labels: Sequence[str] | None) -> None:
        self._recipe = recipe
        self._labels = labels
        tasks: Mapping[str, Callable[..., dict[str, npt.NDArray[Any]]]] = {
            "classification": self._classified,
            "detection": self._detected,
            "segmentation": self._segmented,
            "text": self._lines_of_text,
            "reading": self._read,
        }
        self._answer = tasks[recipe.task]

    def __call__(self, outputs: Arrays, places: Sequence[Geometry]) -> Arrays:
        """The answers to a batch. places: of its frames; empty where the model has no preprocessing."""
        found = self._answer(*(outputs[name] for name in self._recipe.inputs), places)
        return {**outputs, **found} if self._recipe.raw else found

    def _classified(self, logits: Any, places: Sequence[Geometry]) -> dict[str, npt.NDArray[Any]]:
        classes, scores = top_k(logits, self._recipe.top_k)
        found = {CLASSES: classes, SCORES: scores}
        return found if self._labels is None else {**found, LABELS: labels_of(classes, self._labels)}

    def _segmented(self, scores: Any, places: Sequence[Geometry]) -> dict[str, npt.NDArray[Any]]:
        return {LABEL_MAP: label_map(scores)}

    def _lines_of_text(self, maps: Any, places: Sequence[Geometry]) -> dict[str, npt.NDArray[Any]]:
        from ensembles.text import TextRule, text_boxes  # OpenCV, which other answers do without

        recipe = self._recipe
        rule = TextRule(recipe.threshold, recipe.widening, recipe.min_score, recipe.max_boxes)
        return self._boxes([text_boxes(frame, rule) for frame in maps], places)

    def _read(self, probabilities: Any, places: Sequence[Geometry]) -> dict[str, npt.NDArray[Any]]:
        assert self._labels is not None
        read = [read_line(frame, self._labels) for frame in probabilities]
        texts = np.array([[text.encode()] for text, _ in read], dtype=np.object_)
        return {READ_TEXT: texts, READ_SCORE: np.array([[score] for _, score in read], np.float32)}

    def _detected(self, boxes: Any, scores: Any, places: Sequence[Geometry]) -> dict[str, npt.NDArray[Any]]:
        rule = Suppression(
            max_boxes=self._recipe.max_boxes,
            min_score=self._recipe.min_score,
            max_overlap=self._recipe.max_overlap,
        )
        each = [detect(*frame, rule) for frame in zip(boxes, scores, strict=True)]
        found = self._boxes(each, places)
        if self._labels is None:
            return found
        # Class -1, where there is no box, takes the last label: the empty one.
        return {**found, LABELS: labels_of(found[DETECTED_CLASSES], [*self._labels, ""])}

    def _boxes(self, each: Sequence[Detections], places: Sequence[Geometry]) -> dict[str, npt.NDArray[Any]]:
        there = places or [Geometry()] * len(each)
        return {
            DETECTED_BOXES: np.stack([to.to_frame(one.boxes) for one, to in zip(each, there, strict=True)]),
            DETECTED_SCORES: np.stack([one.scores for one in each]),
            DETECTED_CLASSES: np.stack([one.classes for one in each]),
        }
