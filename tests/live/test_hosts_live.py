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
    write_deployment,
)
from planner.frames import FrameSize
from planner.ingress import PrepareRecipe
from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec
from ppipe.bench.frames import encode_jpeg, make_pictures
from ppipe.bench.target import public_request
from python_backend.stage.executors.emulated import frame_tag
from tests.live.hosts import Fleet, Host, Link, fleet, hosts, require_hosts, wait_until_answered

pytestmark = pytest.mark.live

PICTURES = make_pictures(4, seed=3, width=640, height=480)
SIZE = 320


@dataclass(frozen=True)
class Hosts:
    """Three of them, and what they serve."""

    made: dict[str, Host]
    running: Fleet
    manifest: DeploymentManifest

    @property
    def address(self) -> str:
        return f"{self.manifest.entry.host}:{self.manifest.entry.grpc_port}"

    def request(self, number: int) -> service_pb2.ModelInferRequest:
        request = public_request(self.manifest.models[0], PICTURES[number])
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
    with hosts({"entry": Link(200), "a": Link(100), "b": Link(100)}, ("entry", Link(1_000))) as made:
        addresses = {name: host.address for name, host in made.items()}
        manifest = write_deployment(root / "repository", [model], 24_000, hosts=addresses)
        with fleet(root / "repository", root / "logs", made) as running:
            served = Hosts(made, running, manifest)
            wait_until_answered(running, served.address, served.request(0))
            yield served


def test_frames_cross_the_network_and_each_gets_its_own_answer(three: Hosts) -> None:
    with grpc.insecure_channel(three.address) as channel:
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
    with grpc.insecure_channel(three.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for number in range(20):
            stub.ModelInfer(three.request(number % 4), timeout=10)
    sent = three.made["entry"].sent_bytes() - before
    frames = 5 * sum(len(encode_jpeg(picture)) for picture in PICTURES)
    assert frames < sent < 1.2 * frames, "as tensors they would be twenty times as large"


def test_a_host_that_ends_is_done_without_and_is_back_when_it_is_started(three: Hosts) -> None:
    three.running.stop("a")
    with grpc.insecure_channel(three.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = [stub.ModelInfer(three.request(number % 4), timeout=10) for number in range(10)]
    assert len(answers) == 10, "by the other host's worker"
    three.running.start(three.made["a"])
    worker = 'ppipe_worker_up{model="net",worker="net.p0.s0.w0"} 1'
    end_s = time.monotonic() + 60
    while worker not in metrics(three):
        assert time.monotonic() < end_s, three.running.said()
        time.sleep(0.5)


def metrics(three: Hosts) -> str:
    port = three.manifest.models[0].feedback_port
    url = f"http://{three.manifest.entry.host}:{port}/metrics"
    read = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
    command = three.made["entry"].command([sys.executable, "-c", read])
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_host_that_has_no_part_is_told_so(three: Hosts, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ppipe", "serve", str(three.running.repository), "--host", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "none of them is this machine's" in done.stderr.replace("\n", " ")
