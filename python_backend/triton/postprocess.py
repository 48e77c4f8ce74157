"""Triton adapter: the model's outputs in; classes, boxes or a label map out. The work is ensembles'."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ensembles.detection import Suppression, detect, label_map
from ensembles.graphs import (
    CLASSES,
    DETECTED_BOXES,
    DETECTED_CLASSES,
    DETECTED_SCORES,
    LABEL_MAP,
    LABELS,
    SCORES,
)
from ensembles.steps import labels_of, top_k

Arrays = dict[str, Any]


class TritonPythonModel:
    """Configured by its config.pbtxt: sizes are the outputs' dims; `task` and the rest are parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the configuration; a fault here makes the model's load fail with the message."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._inputs = [tensor["name"] for tensor in config["input"]]
        dims = {tensor["name"]: [int(size) for size in tensor["dims"]] for tensor in config["output"]}
        self._answers = _make(parameters, dims, _read_labels(args["model_repository"], parameters))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        given = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]
        answers = self._answers(*given)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, array) for name, array in answers.items()]
        )


def _read_labels(folder: str, parameters: Mapping[str, str]) -> list[str] | None:
    if "labels" not in parameters:
        return None
    return (Path(folder) / parameters["labels"]).read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _make(
    parameters: Mapping[str, str], dims: Mapping[str, list[int]], labels: list[str] | None
) -> Callable[..., Arrays]:
    """The function from a batch of the model's outputs to a batch of answers."""
    if parameters["task"] == "detection":
        rule = Suppression(
            max_boxes=dims[DETECTED_CLASSES][0],
            min_score=json.loads(parameters["min_score"]),
            max_overlap=json.loads(parameters["max_overlap"]),
        )
        return lambda boxes, scores: _detected(boxes, scores, rule, labels)
    if parameters["task"] == "segmentation":
        return lambda scores: {LABEL_MAP: label_map(scores)}
    return lambda logits: _classified(logits, dims[CLASSES][0], labels)


def _classified(logits: Any, k: int, labels: list[str] | None) -> Arrays:
    classes, scores = top_k(logits, k)
    answers: Arrays = {CLASSES: classes, SCORES: scores}
    return answers if labels is None else answers | {LABELS: labels_of(classes, labels)}


def _detected(boxes: Any, scores: Any, rule: Suppression, labels: list[str] | None) -> Arrays:
    found = [detect(*frame, rule) for frame in zip(boxes, scores, strict=True)]
    classes = np.stack([each.classes for each in found])
    answers: Arrays = {
        DETECTED_BOXES: np.stack([each.boxes for each in found]),
        DETECTED_SCORES: np.stack([each.scores for each in found]),
        DETECTED_CLASSES: classes,
    }
    # Class -1, where there is no box, takes the last label: the empty one.
    return answers if labels is None else answers | {LABELS: labels_of(classes, [*labels, ""])}
