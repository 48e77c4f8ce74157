"""profile, plan, generate and serve on a tiny residual network, then clients that behave, that do not, and
faults.

One deployment of real tritonservers for all tests of this module; the tests that break it come last and leave
it whole.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from planner.deployment import load_deployment
from planner.manifest import ModelEntry
from ppipe.bench.frames import encode_jpeg, make_pictures
from ppipe.bench.reference import make_inputs
from ppipe.bench.target import public_request, tensors_request
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from ppipe.serving.probe import text_element
from ppipe.serving.processes import stubs_of
from ppipe.serving.supervisor import ServerStatus
from tests.live.tiny_net import write_tiny
from tests.waiting import wait_for

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

PICTURES = make_pictures(3, seed=5)


@dataclass(frozen=True)
class Served:
    """The running deployment, its file, and a connection to its entry."""

    deployment_file: Path
    work: Path
    deployment: ServedDeployment
    stub: service_pb2_grpc.GRPCInferenceServiceStub

    @property
    def entry(self) -> ModelEntry:
        return self.deployment.manifest.models[0]

    def request(self, number: int = 0) -> service_pb2.ModelInferRequest:
        request = public_request(self.entry, PICTURES[number])
        request.model_name = self.entry.dispatcher
        return request

    def infer(self, request: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:
        return self.stub.ModelInfer(request, timeout=20)

    def status(self, server: str) -> ServerStatus:
        return next(status for status in self.deployment.statuses if status.name == server)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tiny")
    deployment_file = write_tiny(folder, base_port=free_base(21_000, 20))
    work = folder / "work"
    for command in ("profile", "plan", "generate"):
        assert run([command, str(deployment_file), "--work", str(work)]) == 0
    with ServedDeployment(work / "repository", work / "logs") as deployment:
        deployment.start()
        entry = deployment.manifest.entry
        with grpc.insecure_channel(f"{entry.host}:{entry.grpc_port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            yield Served(deployment_file, work, deployment, stub)


def failure(call: Callable[[], object]) -> tuple[str, str]:
    """Code and text of the error that `call` must end in."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


def outputs_of(response: service_pb2.ModelInferResponse) -> dict[str, bytes]:
    names = [tensor.name for tensor in response.outputs]
    return dict(zip(names, response.raw_output_contents, strict=True))


def test_the_plan_has_two_stages_so_that_the_rest_means_something(served: Served) -> None:
    assert [len(pipeline.stages) for pipeline in served.entry.served.pipelines] == [2]


def test_bench_finds_every_answer_right(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*("--work", str(served.work)), *("--load", "0.5"), *("--seconds", "4"), "--json"]
    assert run(["bench", str(served.deployment_file), *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["requests"] > 80
    assert (result["unanswered"], result["mismatched"], result["failed"]) == (0, 0, 0)
    assert 0 < result["max_abs_error"] <= 1e-4, "two ways to the same numbers, not one"
    assert result["answered"] > 0.5 * result["requests"]
    assert (served.work / "bench.png").stat().st_size > 10_000
    saved = json.loads((served.work / "bench.json").read_text())
    assert saved["systems"]["ppipe"]["total"]["requests"] == result["requests"]


def test_status_sees_every_model_answer(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(served.deployment_file), "--work", str(served.work)]) == 0
    said = capsys.readouterr().out
    for server in (served.deployment.manifest.entry, *served.deployment.manifest.servers):
        assert f"{len(server.models)} of {len(server.models)}" in said


@pytest.mark.parametrize("size", [(64, 48), (333, 17)])
def test_a_jpeg_of_any_size_gets_classes_and_scores(served: Served, size: tuple[int, int]) -> None:
    (picture,) = make_pictures(1, seed=9, width=size[0], height=size[1])
    request = public_request(served.entry, picture)
    request.model_name = served.entry.dispatcher
    outputs = outputs_of(served.infer(request))
    logits = np.frombuffer(outputs["output"], np.float32)
    classes = np.frombuffer(outputs["classes"], np.int32)
    scores = np.frombuffer(outputs["scores"], np.float32)
    assert list(classes) == list(np.argsort(-logits)[:3])
    np.testing.assert_allclose(scores, (np.exp(logits) / np.exp(logits).sum())[classes], rtol=1e-4)


def test_an_http_client_gets_the_same_answer(served: Served) -> None:
    server = served.deployment.manifest.entry
    content = text_element(encode_jpeg(PICTURES[1]))
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "jpeg",
                    "shape": [1, 1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(content)},
                }
            ]
        }
    ).encode()
    url = f"http://{server.host}:{server.http_port}/v2/models/{served.entry.dispatcher}/infer"
    request = urllib.request.Request(
        url, data=header + content, headers={"Inference-Header-Content-Length": str(len(header))}
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        answer = json.load(reply)
    by_name = {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}
    over_grpc = np.frombuffer(outputs_of(served.infer(served.request(1)))["output"], np.float32)
    np.testing.assert_allclose(by_name["output"], over_grpc, atol=1e-5)


def test_a_bare_body_is_enough(served: Served) -> None:
    """As `curl --data-binary @frame.jpg` sends it."""
    server = served.deployment.manifest.entry
    url = f"http://{server.host}:{server.http_port}/v2/models/{served.entry.body_ensemble}/infer"
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data=encode_jpeg(PICTURES[1]), headers=headers)
    with urllib.request.urlopen(request, timeout=20) as reply:
        length = int(reply.headers["Inference-Header-Content-Length"])
        content = reply.read()
    names = [tensor["name"] for tensor in json.loads(content[:length])["outputs"]]
    assert set(names) == {spec.name for spec in served.entry.outputs}
    over_grpc = outputs_of(served.infer(served.request(1)))
    assert content[length:] == b"".join(over_grpc[name] for name in names)


def test_a_client_that_prepares_by_itself_sends_the_networks_input(served: Served) -> None:
    (image,) = make_inputs(load_deployment(served.deployment_file).models[0], PICTURES[1:2])
    request = tensors_request(served.entry, image)
    request.model_name = served.entry.dispatcher
    own = np.frombuffer(outputs_of(served.infer(request))["output"], np.float32)
    theirs = np.frombuffer(outputs_of(served.infer(served.request(1)))["output"], np.float32)
    np.testing.assert_allclose(own, theirs, atol=1e-5)


def test_a_request_has_one_frame_in_one_way(served: Served) -> None:
    request = served.request()
    (image,) = make_inputs(load_deployment(served.deployment_file).models[0], PICTURES[:1])
    other = tensors_request(served.entry, image)
    request.inputs.extend(other.inputs)
    request.raw_input_contents.extend(other.raw_input_contents)
    code, text = failure(lambda: served.infer(request))
    assert (code, "expected one of the inputs jpeg, image" in text) == ("INVALID_ARGUMENT", True)


def test_a_client_that_gives_up_is_noticed_at_the_public_model(served: Served) -> None:
    """Triton tells the public model, which is no ensemble, that its caller has gone.

    There is little time for it, and a busy host may take longer: tried some times.
    """
    assert any(giving_up_is_noticed(served) for _ in range(5))


def giving_up_is_noticed(served: Served) -> bool:
    """Whether clients that give up are counted while a stage stands still."""
    before = dropped(served, "cancelled")
    server = served.status("fast-0")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        calls = []
        for number in range(30):
            request = served.request(number % len(PICTURES))
            request.parameters["timeout"].int64_param = 20_000_000
            calls.append(served.stub.ModelInfer.future(request, timeout=20))
        time.sleep(0.1)
        for call in calls:
            call.cancel()
        end_s = time.monotonic() + 0.6  # a stub that stands still for a second ends its server
        while time.monotonic() < end_s and dropped(served, "cancelled") == before:
            time.sleep(0.02)
        noticed = dropped(served, "cancelled") > before
    finally:
        os.kill(server.pid, signal.SIGCONT)
    served.deployment.wait_until_serving()
    wait_for(lambda: answers(served))
    return noticed


def dropped(served: Served, reason: str) -> float:
    manifest = served.deployment.manifest
    url = f"http://{manifest.entry.host}:{served.entry.feedback_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as page:
        (line,) = [line for line in page.read().decode().splitlines() if f'reason="{reason}"' in line]
    return float(line.rsplit(" ", 1)[1])


def test_an_http_client_is_told_what_is_wrong(served: Served) -> None:
    server = served.deployment.manifest.entry
    url = f"http://{server.host}:{server.http_port}/v2/models/{served.entry.dispatcher}/infer"
    body = json.dumps({"inputs": [{"name": "jpeg", "shape": [1, 1], "datatype": "FP32", "data": [0.0]}]})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, data=body.encode()), timeout=20)
    with caught.value as error:
        assert error.code == 400
        assert "'jpeg' data-type is 'FP32', but model 'tiny' expects 'BYTES'" in error.read().decode()


def wrong_dtype(request: service_pb2.ModelInferRequest) -> None:
    request.inputs[0].datatype = "UINT8"


def wrong_shape(request: service_pb2.ModelInferRequest) -> None:
    request.inputs[0].shape[:] = [1, 2]


def wrong_name(request: service_pb2.ModelInferRequest) -> None:
    request.inputs[0].name = "frame"


def no_jpeg(request: service_pb2.ModelInferRequest) -> None:
    request.raw_input_contents[0] = text_element(b"no picture")


def cut_jpeg(request: service_pb2.ModelInferRequest) -> None:
    whole = request.raw_input_contents[0][4:]
    request.raw_input_contents[0] = text_element(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_dtype, "data-type"),
        (wrong_shape, "shape"),
        (wrong_name, "frame"),
        (no_jpeg, "JPEG"),
        (cut_jpeg, "JPEG"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_wrong_request_is_an_invalid_argument_that_says_so(
    served: Served, spoil: Callable[[service_pb2.ModelInferRequest], None], said: str
) -> None:
    request = served.request()
    spoil(request)
    code, text = failure(lambda: served.infer(request))
    assert code == "INVALID_ARGUMENT"
    assert said in text


def test_a_wrong_tensor_is_an_invalid_argument(served: Served) -> None:
    request = service_pb2.ModelInferRequest(model_name=served.entry.dispatcher)
    request.inputs.add(name="image", datatype="FP32", shape=[1, 3, 16, 16])
    request.raw_input_contents.append(bytes(4 * 3 * 16 * 16))
    code, text = failure(lambda: served.infer(request))
    assert code == "INVALID_ARGUMENT"
    assert "[1,3,16,16]" in text.replace(" ", "")


def test_a_hopeless_deadline_is_declined_at_once(served: Served) -> None:
    request = served.request()
    request.parameters["timeout"].int64_param = 5_000
    started = time.monotonic()
    code, text = failure(lambda: served.infer(request))
    assert time.monotonic() - started < 10.0
    assert code == "UNAVAILABLE"
    assert "deadline" in text
    assert "reason=" in text


def test_a_dead_stage_server_is_restarted_and_serves_again(served: Served) -> None:
    before = served.status("fast-0")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: served.status("fast-0").restarts == before.restarts + 1)
    served.deployment.wait_until_serving()
    wait_for(lambda: answers(served))


def test_callers_of_a_dead_dispatcher_are_released_and_service_returns(served: Served) -> None:
    before = served.status("entry")
    assert before.pid is not None
    ends: queue.Queue[grpc.Future[service_pb2.ModelInferResponse]] = queue.Queue()
    for number in range(12):
        call = served.stub.ModelInfer.future(served.request(number % len(PICTURES)), timeout=60)
        call.add_done_callback(ends.put)
    os.kill(stubs_of(before.pid)[served.entry.dispatcher].pid, signal.SIGKILL)
    started = time.monotonic()
    errors = [call for call in (ends.get(timeout=60) for _ in range(12)) if call.exception() is not None]
    assert errors, "some were under way"
    assert {call.code().name for call in errors} <= {"UNAVAILABLE", "INTERNAL"}, (
        "none ran into its own timeout"
    )
    assert time.monotonic() - started < 20
    wait_for(lambda: served.status("entry").restarts == before.restarts + 1)
    served.deployment.wait_until_serving()
    wait_for(lambda: answers(served))


def answers(served: Served, pictures: Sequence[int] = (0, 1, 2)) -> bool:
    """Whether frames are served again."""
    try:
        return all(served.infer(served.request(number)).outputs for number in pictures)
    except grpc.RpcError:
        return False
