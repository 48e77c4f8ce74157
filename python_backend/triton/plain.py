"""The Triton model of the plain baseline: one worker runs the whole model, batched by Triton itself.

No dispatcher, no tickets: what a user gets by writing the unsplit model into a repository. It has the same
executors and the same padding as a stage, so that only the serving differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from planner.cluster import Executor
from python_backend.stage.executors.base import make_executor
from python_backend.triton.model_folder import open_place_folder
from python_backend.triton.stage import device_of
from python_backend.wire.clock import now_us, sleep_until
from python_backend.wire.kserve import Array


class TritonPythonModel:
    """See the module."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once."""
        folder = open_place_folder(args)
        self._latency_us = folder.place.latency_us
        self._program = folder.place.program
        self._executor = make_executor(self._program, folder.root, first_stage=True, device=device_of(args))
        self._executor.warm_up()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One batch of Triton's, answered when the worker is done with it."""
        began_us = now_us()
        tensors = [
            [pb_utils.get_input_tensor_by_name(request, spec.name).as_numpy() for request in requests]
            for spec in self._program.inputs
        ]
        outputs = self._executor.run([np.concatenate(arrays) for arrays in tensors])
        self._hold(began_us, batch=len(outputs[0]))
        return self._responses(outputs, [len(array) for array in tensors[0]])

    def _hold(self, began_us: int, batch: int) -> None:
        if not (self._program.padded or self._program.executor is Executor.EMULATED):
            return
        sleep_until(began_us + self._latency_us[min(batch, len(self._latency_us)) - 1])

    def _responses(self, outputs: list[Array], sizes: list[int]) -> list[Any]:
        responses = []
        start = 0
        for size in sizes:
            parts = [
                pb_utils.Tensor(spec.name, output[start : start + size])
                for spec, output in zip(self._program.outputs, outputs, strict=True)
            ]
            responses.append(pb_utils.InferenceResponse(output_tensors=parts))
            start += size
        return responses
