"""Emulated stages pass tags on and notice mixed frames."""

from __future__ import annotations

import numpy as np
import pytest

from planner.cluster import Executor
from planner.manifest import StageProgram
from planner.profile import TensorSpec
from python_backend.stage.executors.emulated import EmulatedExecutor, MixedFrames, tags_of

IN = (TensorSpec("a", "FP32", (3, 2)), TensorSpec("b", "FP16", (2, 2)))
OUT = (TensorSpec("y", "FP32", (7,)), TensorSpec("z", "UINT8", (3,)))


def program() -> StageProgram:
    return StageProgram(
        program="", program_sha256="", inputs=IN, outputs=OUT, executor=Executor.EMULATED, max_batch_size=4
    )


def tagged(numbers: list[int]) -> list[np.ndarray]:
    arrays = [np.zeros((len(numbers), 3, 2), np.float32), np.zeros((len(numbers), 2, 2), np.float16)]
    for array in arrays:
        array.reshape(len(numbers), -1).view(np.uint8)[:, :8] = (
            np.array(numbers, np.int64).view(np.uint8).reshape(-1, 8)
        )
    return arrays


def test_tags_reach_every_output_as_far_as_they_fit() -> None:
    y, z = EmulatedExecutor(program(), first_stage=False).run(tagged([5, 70_000, -1]))
    assert y.shape == (3, 7)
    assert z.shape == (3, 3)
    assert tags_of(y).copy().view(np.int64).ravel().tolist() == [5, 70_000, -1]
    assert tags_of(z).tolist() == [[5, 0, 0], [112, 17, 1], [255, 255, 255]]


def test_tensors_of_different_frames_are_refused() -> None:
    a, b = tagged([1, 2, 3])
    with pytest.raises(MixedFrames, match="frame 1 of the batch: b"):
        EmulatedExecutor(program(), first_stage=False).run([a, b[[0, 2, 2]]])
