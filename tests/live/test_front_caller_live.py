"""Who has called: dispatchers read what the front says, whatever callers say. Real nginx, real Triton."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.helpers.doors.stand import find_nginx, front
from model_repo_generator.control import NAMED_CALLERS
from model_repo_generator.emulated import build_manifest
from model_repo_generator.front import FrontOptions, render_front
from planner.manifest import ServerAddress
from python_backend.wire.parameters.caller import CALLER, caller_of
from tests.live.data_plane_client import two_stage_model
from tests.live.handmade import free_ports, write_model
from tests.live.live_server import running, wait_ready

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

MODEL = "tiny"
SAYS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        said = ["parameters " + (request.parameters() or "{}") for request in requests]
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError(text)) for text in said]
"""
"""A model that answers with the parameters that Triton gives it."""

Said = Mapping[str, object]


@dataclass(frozen=True)
class Asked:
    """A front, and the caller whose requests come through it. `named`: as dispatchers are to read of him."""

    named: str
    stub: service_pb2_grpc.GRPCInferenceServiceStub
    url: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerAddress]:
    folder = tmp_path_factory.mktemp("caller")
    write_model(folder / "models", MODEL, SAYS)
    http, grpc_port = free_ports(2)
    flags = [*NAMED_CALLERS, f"--http-port={http}"]
    with running(folder / "models", [MODEL], folder / "log", grpc_port, flags) as live:
        wait_ready(live, [MODEL])
        yield ServerAddress("entry", "entry", "127.0.0.1", http, grpc_port, 0, "models", (MODEL,))


@pytest.fixture(
    scope="module", params=["127.0.0.0/8", "192.0.2.0/24", None], ids=["known", "stranger", "all"]
)
def asked(request: pytest.FixtureRequest, server: ServerAddress, tmp_path_factory: Any) -> Iterator[Asked]:
    nginx = find_nginx()
    if nginx is None:
        pytest.skip("no nginx here")
    folder = tmp_path_factory.mktemp("fronts") / "front"
    http, grpc_port = free_ports(2)
    known = () if request.param is None else (request.param,)
    options = FrontOptions(http_port=http, grpc_port=grpc_port, folder=folder, known=known)
    config = render_front(build_manifest([two_stage_model()], 40_000, "d"), options, [server])
    with front(nginx, folder, config), grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        yield Asked(
            "known/127.0.0.1" if known == ("127.0.0.0/8",) else "127.0.0.1",
            service_pb2_grpc.GRPCInferenceServiceStub(channel),
            f"http://127.0.0.1:{http}/v2/models/{MODEL}/infer",
        )


def over_grpc(asked: Asked, said: Said, headers: Mapping[str, str]) -> str:
    """The caller of a request with these parameters and headers, as a dispatcher would read it."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))
    for name, value in said.items():
        if isinstance(value, int):
            request.parameters[name].int64_param = value
        else:
            request.parameters[name].string_param = str(value)
    metadata = [(name.lower(), value) for name, value in headers.items()]
    with pytest.raises(grpc.RpcError) as caught:
        asked.stub.ModelInfer(request, timeout=30, metadata=metadata)
    return read(caught.value.details())


def over_http(asked: Asked, said: Said, headers: Mapping[str, str]) -> str:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.0] * 4}
    body = json.dumps({"parameters": said, "inputs": [tensor]}).encode()
    request = urllib.request.Request(asked.url, data=body, headers=dict(headers))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    with caught.value as error:
        return read(json.loads(error.read())["error"])


def read(text: str) -> str:
    """As a dispatcher reads it."""
    _, _, parameters = text.partition("parameters ")
    return caller_of(json.loads(parameters))


@pytest.mark.parametrize("ask", [over_grpc, over_http])
@pytest.mark.parametrize(
    ("said", "headers"),
    [
        ({}, {}),
        ({CALLER: "known/me"}, {}),
        ({CALLER: 7}, {}),
        ({"a": "b", CALLER: "known/me", "z": "b"}, {}),
        ({}, {CALLER: "known/me"}),
        ({}, {"PPipe-Caller": "known/me"}),
        ({CALLER: "known/me"}, {CALLER: "known/you"}),
    ],
)
def test_no_caller_chooses_who_he_is(
    asked: Asked, ask: Callable[..., str], said: Said, headers: Mapping[str, str]
) -> None:
    assert ask(asked, said, headers) == asked.named
