"""Generated wrong requests, to the dispatcher and straight to stages: each gets a clear error, and service
goes on.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.live.data_plane_client import INPUT, Client, served, tag_of, two_stage_model

pytestmark = pytest.mark.live

REQUESTS = 600
CLEAR = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # Triton's, for a name that does not fit its error's header
}
FAULTS = ("dtype", "shape", "name", "size", "parameter", "model", "version", "twice")


def wrong_request(rng: random.Random, models: list[str]) -> pb.ModelInferRequest:
    """A request that is wrong in one to three ways."""
    request = pb.ModelInferRequest(model_name=rng.choice(models))
    datatype, shape = "FP32", [1, *INPUT.shape]
    content = np.zeros(shape, np.float32).tobytes()
    name = INPUT.name
    for fault in rng.sample(
        ["dtype", "shape", "name", "size", "parameter", "model", "version", "twice"], rng.randint(1, 3)
    ):
        if fault == "dtype":
            datatype = rng.choice(["FP64", "INT8", "BYTES", "", "NONSENSE", "BOOL"])
        elif fault == "shape":
            shape = rng.choice(
                [[], [0], [1], [2, *INPUT.shape], [1, 999], [-1, 1000], [1 << 40, 1000], [1, 1, 1000]]
            )
        elif fault == "name":
            name = rng.choice(["", "x", "frame ", "\x00", "n" * 10_000])
        elif fault == "size":
            content = rng.choice([b"", b"\x00", content[:-1], content + b"\x00", bytes(5_000_000)])
        elif fault == "parameter":
            request.parameters["priority"].string_param = rng.choice(["", "high", "1e9", "9" * 400])
        elif fault == "model":
            request.model_name = rng.choice(["", "nobody", "tiny_dispatch/1", "../tiny_dispatch"])
        elif fault == "version":
            request.model_version = rng.choice(["7", "-1", "latest"])
        elif fault == "twice":
            request.inputs.add(name=name, datatype=datatype, shape=shape)
            request.raw_input_contents.append(content)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(content)
    if rng.random() < 0.5:
        request.parameters["ppipe_ticket"].string_param = wrong_ticket(rng)
    return request


def wrong_ticket(rng: random.Random) -> str:
    """Text that no dispatcher of this deployment has signed."""
    body = {
        "deployment": rng.choice(["emulated", "", None]),
        "epoch": rng.choice([1, 0, -1, 1 << 70, "1"]),
        "hop": rng.choice([0, 1, 9, -1, None]),
        "batch": rng.choice([0, [], {}]),
        "hops": rng.choice([[], [[]], [["tiny.p0.s0.w0", 0, 0, 0, 0]], "hops", [[None] * 5]]),
        "relative": rng.choice([True, False, 3]),
        "mac": rng.choice(["", "0" * 64, "\u00e9"]),
    }
    text = json.dumps(body, separators=(",", ":"))
    return rng.choice([text, text[: rng.randint(0, len(text))], "\x00" * 10, "[" * 10_000])


def test_every_wrong_request_gets_a_clear_error_and_service_goes_on(tmp_path: Path) -> None:
    rng = random.Random(7)
    codes: Counter[grpc.StatusCode] = Counter()
    unclear: list[tuple[str, str]] = []
    with served(tmp_path, two_stage_model()) as deployment:
        pids = {status.name: status.pid for status in deployment.statuses}
        for server in (deployment.manifest.entry, deployment.manifest.servers[0]):
            with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                for _ in range(REQUESTS // 2):
                    request = wrong_request(rng, list(server.models))
                    error = stub.ModelInfer.future(request, timeout=5).exception()
                    if error is None:
                        assert server.name == "entry", "a stage takes only its dispatcher's tickets"
                        continue
                    codes[error.code()] += 1
                    assert error.details(), request
                    # Triton's own code for a first dimension past max_batch_size is INTERNAL; its text is
                    # clear.
                    if error.code() not in CLEAR and "batch size" not in error.details():
                        unclear.append((error.details(), str(request)[:300]))
        client = Client(deployment.manifest)
        for number in range(20):
            assert tag_of(client.infer(number)["scores"]) == number
        client.close()
        assert {status.name: status.pid for status in deployment.statuses} == pids, "nothing was restarted"
    assert sum(codes.values()) > 0.8 * REQUESTS
    assert not unclear


def test_frames_of_nan_and_infinity_are_frames(tmp_path: Path) -> None:
    with served(tmp_path, two_stage_model()) as deployment:
        entry = deployment.manifest.entry
        frame = np.full((1, *INPUT.shape), np.nan, np.float32)
        frame[0, 1::2] = np.inf
        request = pb.ModelInferRequest(model_name="tiny_dispatch")
        request.inputs.add(name=INPUT.name, datatype="FP32", shape=[1, *INPUT.shape])
        request.raw_input_contents.append(frame.tobytes())
        with grpc.insecure_channel(f"{entry.host}:{entry.grpc_port}") as channel:
            answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=5)
    assert answer.raw_output_contents[0][:8] == frame.tobytes()[:8]
