"""A client for emulated deployments: numbers its frames, and checks that each answer is its own frame's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    write_deployment,
)
from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

INPUT = TensorSpec("frame", "FP32", (1000,))
CUT = (TensorSpec("cut0", "FP32", (300,)), TensorSpec("cut1", "FP16", (20,)))
OUTPUT = (TensorSpec("scores", "FP32", (10,)),)


def two_stage_model(**changes: Any) -> EmulatedModel:
    """Two pools of two workers, each over two servers; two tensors across the cut."""
    latency_us = (5_000, 6_000, 7_000, 8_000)
    pipeline = EmulatedPipeline(
        batch_size=4,
        stages=(
            EmulatedStage(latency_us, ("slow-0", "slow-1"), CUT),
            EmulatedStage(latency_us, ("fast-0", "fast-1"), OUTPUT),
        ),
        transfer_us=((500, 500, 500, 500),),
    )
    model = {
        "name": "tiny",
        "slo_us": 150_000,
        "planned_rps": 500.0,
        "input": INPUT,
        "pipelines": (pipeline,),
    }
    return EmulatedModel(**(model | changes))


@contextmanager
def served(root: Path, *models: EmulatedModel, **options: Any) -> Iterator[ServedDeployment]:
    """The models on real tritonservers."""
    ports = 3 * 12 + len(models)
    write_deployment(root / "repository", models, base_port=free_base(31_000, ports), **options)
    with ServedDeployment(root / "repository", root / "logs") as deployment:
        deployment.start()
        yield deployment


PATIENT_US = 20_000_000
"""Asked of the dispatcher as a timeout, in which any host answers."""


class Client:
    """Sends single frames to one model's dispatcher."""

    def __init__(self, manifest: DeploymentManifest, model: str = "tiny") -> None:
        self._entry = manifest.model(model)
        self._client = triton.InferenceServerClient(f"{manifest.entry.host}:{manifest.entry.grpc_port}")
        self.latencies_s: list[float] = []
        self.errors: dict[str, int] = {}
        self.wrong = 0
        self.answers: dict[int, int] = {}
        self._done = Semaphore(0)
        self._sent = 0
        self._seen = 0
        """Answers that a wait has seen."""

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def infer(self, number: int, **options: Any) -> Mapping[str, Any]:
        """The answer to frame `number`, or tritonclient's exception."""
        answer = self._client.infer(
            self._entry.dispatcher, [frame_input(self._entry.input, number)], **options
        )
        return {spec.name: answer.as_numpy(spec.name) for spec in self._entry.outputs}

    def send(self, **options: Any) -> None:
        """Send the next frame; what becomes of it is counted."""
        number = self._sent
        self._sent += 1
        frame = frame_input(self._entry.input, number)
        call = self._counter(number, time.monotonic())
        self._client.async_infer(self._entry.dispatcher, [frame], call, **options)

    def wait(self, timeout_s: float) -> int:
        """Wait for all answers to what was sent; returns how many did not come."""
        end_s = time.monotonic() + timeout_s
        while self._seen < self._sent:
            if not self._done.acquire(timeout=max(0.01, end_s - time.monotonic())):
                break
            self._seen += 1
        return self._sent - self._seen

    def _counter(self, number: int, sent_s: float) -> Callable[[Any, Any], None]:
        def count(result: Any, error: Any) -> None:
            self.answers[number] = self.answers.get(number, 0) + 1
            if error is not None:
                self.errors[str(error)] = self.errors.get(str(error), 0) + 1
            else:
                self.latencies_s.append(time.monotonic() - sent_s)
                scores = result.as_numpy(self._entry.outputs[0].name)
                self.wrong += int(tag_of(scores) != number)
            self._done.release()

        return count


def frame_input(spec: TensorSpec, number: int) -> triton.InferInput:
    """A frame whose tag is `number`."""
    frame = np.zeros((1, *spec.shape), np.float32)
    frame.reshape(-1).view(np.int64)[0] = number
    tensor = triton.InferInput(spec.name, list(frame.shape), spec.dtype)
    tensor.set_data_from_numpy(frame)
    return tensor


def tag_of(scores: np.ndarray) -> int:
    """The tag in an emulated output."""
    return int(np.ascontiguousarray(scores).reshape(-1).view(np.int64)[0])
