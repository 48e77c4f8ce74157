"""Hosts apart: each serves its own part, frames cross the network as they came, and hosts come and go."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ensembles.graphs import frame_input
from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
)
from planner.frames import FrameSize
from planner.ingress import PrepareRecipe
from planner.profile import TensorSpec
from ppipe.bench.frames import encode_jpeg, make_pictures
from ppipe.bench.target import public_request
from python_backend.stage.executors.emulated import frame_tag
from tests.live.hosts import Host, HostsServed, Link, hosts, require_hosts, serve_on_hosts

pytestmark = pytest.mark.live

PICTURES = make_pictures(4, seed=3, width=640, height=480)
SIZE = 320


@dataclass(frozen=True)
class Hosts:
    """Three of them, and what they serve."""

    made: dict[str, Host]
    served: HostsServed

    def request(self, number: int) -> service_pb2.ModelInferRequest:
        request = public_request(self.served.manifest.models[0], PICTURES[number])
        request.model_name = "net"
        request.parameters["timeout"].int64_param = 2_000_000
        return request


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    require_hosts()
    root = tmp_path_factory.mktemp("hosts")
    recipe = PrepareRecipe(
        kind="jpeg",
        frame=frame_input("jpeg"),
        channels=3,
        height=SIZE,
        width=SIZE,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        planned=FrameSize(640, 480, 60_000),
    )
    latency_us = (4_000, 5_000)
    stages = (
        EmulatedStage(latency_us, ("a", "b"), (TensorSpec("cut", "FP32", (20_000,)),)),
        EmulatedStage(latency_us, ("b",), (TensorSpec("scores", "FP32", (16,)),)),
    )
    model = EmulatedModel(
        name="net",
        slo_us=400_000,
        planned_rps=50.0,
        input=TensorSpec("image", "FP32", (3, SIZE, SIZE)),
        pipelines=(EmulatedPipeline(2, stages, ((8_000, 16_000),)),),
        prepare=recipe,
    )
    with (
        hosts({"entry": Link(200), "a": Link(100), "b": Link(100)}, ("entry", Link(1_000))) as made,
        serve_on_hosts(root, [model], made) as served,
    ):
        yield Hosts(made, served)


def test_frames_cross_the_network_and_each_gets_its_own_answer(three: Hosts) -> None:
    with grpc.insecure_channel(three.served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = []
        for number in range(40):
            calls.append(stub.ModelInfer.future(three.request(number % 4), timeout=10))
            time.sleep(0.03)
        answers = [call.result() for call in calls]
    tags = [frame_tag(encode_jpeg(picture)) for picture in PICTURES]
    for number, answer in enumerate(answers):
        assert answer.raw_output_contents[0][:8] == tags[number % 4]


def test_what_leaves_the_entry_is_little_more_than_the_frames(three: Hosts) -> None:
    before = three.made["entry"].sent_bytes()
    with grpc.insecure_channel(three.served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for number in range(20):
            stub.ModelInfer(three.request(number % 4), timeout=10)
    sent = three.made["entry"].sent_bytes() - before
    frames = 5 * sum(len(encode_jpeg(picture)) for picture in PICTURES)
    assert frames < sent < 1.2 * frames, "as tensors they would be twenty times as large"


def test_a_host_that_ends_is_done_without_and_is_back_when_it_is_started(three: Hosts) -> None:
    three.served.stop("a")
    with grpc.insecure_channel(three.served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = [stub.ModelInfer(three.request(number % 4), timeout=10) for number in range(10)]
    assert len(answers) == 10, "by the other host's worker"
    three.served.start(three.made["a"])
    end_s = time.monotonic() + 60
    while three.served.metric(three.served.manifest.models[0], "worker_up") < 3:
        assert time.monotonic() < end_s, three.served.said()
        time.sleep(0.5)


def test_a_host_that_has_no_part_is_told_so(three: Hosts, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ppipe", "serve", str(three.served.repository), "--host", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "none of them is this machine's" in done.stderr.replace("\n", " ")
