"""Generated wrong requests, to the dispatcher and straight to stages: each gets a clear error, and service
goes on.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from benchmarks.badinput import send_wrong
from tests.live.data_plane_client import INPUT, PATIENT_US, Client, served, tag_of, two_stage_model

pytestmark = pytest.mark.live

REQUESTS = 2_000


def test_every_wrong_request_gets_a_clear_error_and_service_goes_on(tmp_path: Path) -> None:
    with served(tmp_path, two_stage_model()) as deployment:
        pids = {status.name: status.pid for status in deployment.statuses}
        answers = send_wrong(deployment.manifest, REQUESTS, seed=7)
        client = Client(deployment.manifest)
        for number in range(20):
            assert tag_of(client.infer(number, timeout=PATIENT_US)["scores"]) == number
        client.close()
        assert {status.name: status.pid for status in deployment.statuses} == pids, "nothing was restarted"
    assert sum(answers.codes.values()) > 0.95 * REQUESTS
    assert answers.odd_answered > 0
    assert not answers.unclear
    assert not answers.accepted


def test_frames_of_nan_and_infinity_are_frames(tmp_path: Path) -> None:
    with served(tmp_path, two_stage_model()) as deployment:
        entry = deployment.manifest.entry
        frame = np.full((1, *INPUT.shape), np.nan, np.float32)
        frame[0, 1::2] = np.inf
        request = pb.ModelInferRequest(model_name="tiny")
        request.inputs.add(name=INPUT.name, datatype="FP32", shape=[1, *INPUT.shape])
        request.raw_input_contents.append(frame.tobytes())
        with grpc.insecure_channel(f"{entry.host}:{entry.grpc_port}") as channel:
            answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=5)
    assert answer.raw_output_contents[0][:8] == frame.tobytes()[:8]
