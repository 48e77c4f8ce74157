"""Triton adapter: the model's scores in, the best classes out. The work is ensembles.steps'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from ensembles.graphs import CLASSES, LABELS, SCORES
from ensembles.steps import labels_of, top_k


class TritonPythonModel:
    """Configured by its config.pbtxt: k is in the outputs' dims, `labels` names a file beside it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the configuration; a fault here makes the model's load fail with the message."""
        config = json.loads(args["model_config"])
        (source,) = config["input"]
        self._source: str = source["name"]
        self._top_k = next(int(output["dims"][0]) for output in config["output"] if output["name"] == CLASSES)
        self._labels: list[str] | None = None
        if "labels" in config["parameters"]:
            path = Path(args["model_repository"]) / config["parameters"]["labels"]["string_value"]
            self._labels = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        scores_in = pb_utils.get_input_tensor_by_name(request, self._source).as_numpy()
        classes, scores = top_k(scores_in, self._top_k)
        tensors = [pb_utils.Tensor(CLASSES, classes), pb_utils.Tensor(SCORES, scores)]
        if self._labels is not None:
            tensors.append(pb_utils.Tensor(LABELS, labels_of(classes, self._labels)))
        return pb_utils.InferenceResponse(output_tensors=tensors)
