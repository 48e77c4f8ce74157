"""A Python model with nothing of ours: what a frame costs that Triton only hands to a stub and back."""

from __future__ import annotations

from collections.abc import Mapping

from model_repo_generator import config
from planner.profile import TensorSpec

_CODE = """
import queue
import threading

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self._queue = queue.SimpleQueue()
        threading.Thread(target=self._answer, daemon=True).start()

    def execute(self, requests):
        for request in requests:
            frame = pb_utils.get_input_tensor_by_name(request, "{frame}").as_numpy()
            self._queue.put((request.get_response_sender(), frame, request))

    def _answer(self):
        numbers = np.zeros((1, {numbers}), np.float32)
        while True:
            sender, _, _ = self._queue.get()
            response = pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("{output}", numbers)])
            sender.send(response, flags=1)
"""


def bare_model(name: str, frame: TensorSpec, output: TensorSpec) -> Mapping[str, str]:
    """Its files, {path below its folder: text}. It takes a frame as our dispatchers do (decoupled, in lists),
    and answers from a thread of its own with zeros. output: FP32, of one dimension.
    """
    code = _CODE.format(frame=frame.name, numbers=output.shape[0], output=output.name)
    return {"config.pbtxt": config.dispatcher_config(name, (frame,), (output,), {}), "1/model.py": code}
