"""Cameras on real tritonservers with emulated workers: each over a gRPC stream of its own, as a video client
would, together more than the workers serve.
"""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from threading import Semaphore
from typing import Any

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from model_repo_generator.emulated import EmulatedPipeline, EmulatedStage
from planner.streams import StreamPolicy, StreamWeight
from ppipe.serving.launcher import ServedDeployment
from tests.live.data_plane_client import (
    CUT,
    INPUT,
    OUTPUT,
    PATIENT_US,
    Client,
    frame_input,
    served,
    tag_of,
    two_stage_model,
)

pytestmark = pytest.mark.live

POLICY = StreamPolicy("stream", "newest", "weighted", 400.0, (StreamWeight("gold", 4.0),))
CAMERAS = ("gold", "a", "b", "c")
FRAMES = 150
LATENCY_US = (40_000, 50_000, 60_000, 70_000)
"""Of either stage: 114 frames/s, far less than any host sends here."""
REASON = re.compile(r"reason=(\w+)")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDeployment]:
    stages = (
        EmulatedStage(LATENCY_US, ("slow-0", "slow-1"), CUT),
        EmulatedStage(LATENCY_US, ("fast-0", "fast-1"), OUTPUT),
    )
    pipeline = EmulatedPipeline(batch_size=4, stages=stages)
    model = two_stage_model(streams=POLICY, slo_us=500_000, planned_rps=114.0, pipelines=(pipeline,))
    with served(tmp_path_factory.mktemp("streams"), model) as deployment:
        yield deployment


class Camera:
    """Sends numbered frames over one gRPC stream and keeps what comes back, as it comes."""

    def __init__(self, deployment: ServedDeployment, name: str) -> None:
        self.name = name
        self.answers: list[int] = []
        self.reasons: dict[str, int] = {}
        self._client = triton.InferenceServerClient(deployment.manifest.entry.grpc_address)
        self._client.start_stream(self._take)
        self._ended = Semaphore(0)

    def send(self, number: int) -> None:
        place = {"ppipe_stream": self.name, "ppipe_place": number}
        self._client.async_stream_infer("tiny", [frame_input(INPUT, number)], parameters=place)

    def wait(self, count: int, timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        for _ in range(count):
            assert self._ended.acquire(timeout=max(0.01, end_s - time.monotonic())), "no answer"
        self._client.close()

    def _take(self, result: Any, error: Any) -> None:
        if error is None:
            self.answers.append(tag_of(result.as_numpy("scores")))
        else:
            found = REASON.search(str(error))
            reason = found[1] if found else str(error)
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self._ended.release()


def test_cameras_that_send_more_than_can_be_served(deployment: ServedDeployment) -> None:
    cameras = [Camera(deployment, name) for name in CAMERAS]
    for number in range(FRAMES):
        for camera in cameras:
            camera.send(number)
        time.sleep(0.004)
    for camera in cameras:
        camera.wait(FRAMES, timeout_s=120)
    for camera in cameras:
        assert len(camera.answers) + sum(camera.reasons.values()) == FRAMES, camera.name
        assert camera.answers == sorted(set(camera.answers)), f"{camera.name} is out of order"
        assert camera.answers, f"{camera.name} has nothing"
    assert any(camera.reasons.get("superseded") for camera in cameras)
    superseded = sum(camera.reasons.get("superseded", 0) for camera in cameras)
    end_s = time.monotonic() + 30
    while counted(text := metrics_page(deployment)) != superseded:  # a frame's end may be counted after it
        assert time.monotonic() < end_s, (counted(text), superseded)
        time.sleep(0.2)
    assert 'reason="superseded"' not in text, "they count apart from drops"


def metrics_page(deployment: ServedDeployment) -> str:
    url = deployment.manifest.metrics_url(deployment.manifest.models[0])
    with urllib.request.urlopen(url, timeout=10) as page:
        return str(page.read().decode())


def counted(text: str) -> float:
    return float(re.findall(r'^ppipe_superseded_total\{model="tiny"\} (\S+)', text, re.M)[0])


def test_wrong_streams_get_clear_errors_and_others_go_on(deployment: ServedDeployment) -> None:
    client = Client(deployment.manifest)
    with pytest.raises(InferenceServerException, match="a name of 65536 bytes; at most 256") as refused:
        client.infer(1, parameters={"ppipe_stream": "x" * 65_536})
    assert "INVALID_ARGUMENT" in refused.value.status()
    client.infer(2, timeout=PATIENT_US, parameters={"ppipe_stream": "gate", "ppipe_place": 9})
    for number in (9, 3):
        with pytest.raises(InferenceServerException, match=f"place {number} of stream 'gate'") as refused:
            client.infer(3, parameters={"ppipe_stream": "gate", "ppipe_place": number})
        assert "INVALID_ARGUMENT" in refused.value.status()
    place = {"ppipe_stream": "gate", "ppipe_place": 10}
    assert tag_of(client.infer(4, timeout=PATIENT_US, parameters=place)["scores"]) == 4
    assert tag_of(client.infer(5, timeout=PATIENT_US)["scores"]) == 5
    client.close()
