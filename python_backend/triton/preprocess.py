"""Triton adapter: encoded or raw frames in, the model's input out. The work is ensembles.steps'.

A frame that cannot be used is INVALID_ARGUMENT for its own request and for no other.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ensembles.graphs import JPEG_INPUT
from ensembles.steps import FrameFault, InputSize, Normalisation, preprocess_frame, preprocess_image


class TritonPythonModel:
    """Configured by its config.pbtxt: sizes are the output's dims, `mean` and `std` are parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the configuration; a fault here makes the model's load fail with the message."""
        config = json.loads(args["model_config"])
        (source,), (target,) = config["input"], config["output"]
        parameters = config["parameters"]
        channels, height, width = (int(size) for size in target["dims"])
        self._source: str = source["name"]
        self._target: str = target["name"]
        self._dtype = pb_utils.triton_string_to_numpy(target["data_type"])
        self._size = InputSize(channels=channels, height=height, width=width)
        self._normalisation = Normalisation(
            mean=tuple(json.loads(parameters["mean"]["string_value"])),
            std=tuple(json.loads(parameters["std"]["string_value"])),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        frames = pb_utils.get_input_tensor_by_name(request, self._source).as_numpy()
        try:
            made = np.stack([self._preprocess(frame) for frame in frames])
        except FrameFault as error:
            fault = pb_utils.TritonError(f"input {self._source!r}: {error}", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=fault)
        tensor = pb_utils.Tensor(self._target, made.astype(self._dtype, copy=False))
        return pb_utils.InferenceResponse(output_tensors=[tensor])

    def _preprocess(self, frame: Any) -> Any:
        if self._source == JPEG_INPUT:
            return preprocess_image(frame[0], self._size, self._normalisation)
        return preprocess_frame(frame, self._size, self._normalisation)
