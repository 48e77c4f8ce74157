"""The data plane on real tritonservers, with emulated workers: frames come back, wrong requests get clear
errors.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from ppipe.serving.launcher import ServedDeployment
from tests.live.data_plane_client import (
    INPUT,
    PATIENT_US,
    Client,
    frame_input,
    served,
    tag_of,
    two_stage_model,
)
from tests.waiting import wait_for

pytestmark = pytest.mark.live

CANCELLED = 'ppipe_dropped_total{model="tiny",reason="cancelled"'


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDeployment]:
    with served(tmp_path_factory.mktemp("data_plane"), two_stage_model()) as deployment:
        yield deployment


@pytest.fixture
def client(deployment: ServedDeployment) -> Iterator[Client]:
    client = Client(deployment.manifest)
    yield client
    client.close()


def test_every_frame_gets_its_own_answer_once(client: Client) -> None:
    for _ in range(300):
        client.send()
        time.sleep(0.004)
    assert client.wait(timeout_s=60) == 0
    assert client.wrong == 0
    assert set(client.answers.values()) == {1}
    assert len(client.latencies_s) >= 0.7 * 300, client.errors  # a busy host is late with some


def test_http_clients_are_served_too(deployment: ServedDeployment) -> None:
    entry = deployment.manifest.entry
    frame = [0.5, 0.25] + [0.0] * (INPUT.shape[0] - 2)
    body = {"inputs": [{"name": INPUT.name, "datatype": "FP32", "shape": [1, *INPUT.shape], "data": frame}]}
    url = f"http://{entry.host}:{entry.http_port}/v2/models/tiny/infer"
    with urllib.request.urlopen(url, data=json.dumps(body).encode(), timeout=10) as answer:
        (scores,) = json.load(answer)["outputs"]
    assert scores["data"][:2] == [0.5, 0.25]  # the first eight bytes are the tag


def test_a_hopeless_frame_is_refused_at_once(client: Client) -> None:
    began_s = time.monotonic()
    with pytest.raises(InferenceServerException, match=r"deadline.*reason=expired") as refused:
        client.infer(1, timeout=5_000)
    assert "UNAVAILABLE" in refused.value.status()
    assert time.monotonic() - began_s < 5.0


def test_frames_of_one_request_are_answered_together_and_too_many_refused(
    deployment: ServedDeployment,
) -> None:
    entry = deployment.manifest.entry
    with triton.InferenceServerClient(f"{entry.host}:{entry.grpc_port}") as client:
        scores = client.infer("tiny", [frames_input(range(3))], timeout=PATIENT_US).as_numpy("scores")
        assert [tag_of(scores[number : number + 1]) for number in range(3)] == [0, 1, 2]
        with pytest.raises(InferenceServerException, match="batch"):
            client.infer("tiny", [frames_input(range(9))])


def frames_input(numbers: Sequence[int]) -> triton.InferInput:
    """Frames whose tags are `numbers`."""
    frames = np.zeros((len(numbers), *INPUT.shape), np.float32)
    for frame, number in zip(frames, numbers, strict=True):
        frame.reshape(-1).view(np.int64)[0] = number
    tensor = triton.InferInput(INPUT.name, list(frames.shape), "FP32")
    tensor.set_data_from_numpy(frames)
    return tensor


def test_a_priority_that_is_no_number_is_refused(client: Client) -> None:
    with pytest.raises(InferenceServerException, match="ppipe_priority: 'urgent' is not a whole number"):
        client.infer(1, parameters={"ppipe_priority": "urgent"})


@pytest.mark.parametrize(
    "ticket",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"deployment":"emulated","epoch":1,"hop":0,"mac":"00"}',
        "[" * 5_000,
        "x" * 100_000,
    ],
)
def test_a_stage_refuses_what_its_dispatcher_did_not_sign(
    deployment: ServedDeployment, client: Client, ticket: str | None
) -> None:
    server = deployment.manifest.servers[0]
    parameters = {} if ticket is None else {"ppipe_ticket": ticket}
    with (
        triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as stage,
        pytest.raises(InferenceServerException, match="ppipe_ticket") as refused,
    ):
        stage.infer(server.models[0], [frame_input(INPUT, 1)], parameters=parameters)
    assert "INVALID_ARGUMENT" in refused.value.status()
    assert tag_of(client.infer(7, timeout=PATIENT_US)["scores"]) == 7


def test_a_client_that_gives_up_frees_its_frame(deployment: ServedDeployment) -> None:
    before = metrics(deployment).get(CANCELLED, 0)
    # On a busy host a stage that stands still may be found out first, and its frames refused for that.
    tries = (gave_up_unserved(deployment) for _ in range(10))
    assert any(metrics(deployment).get(CANCELLED, 0) > before for _ in tries)


def gave_up_unserved(deployment: ServedDeployment) -> None:
    """Have a client give up a frame that waits: nothing can be served meanwhile."""
    wait_for(lambda: set(workers_up(deployment)) == {1.0})
    before = metrics(deployment).get(CANCELLED, 0)
    others = Client(deployment.manifest)
    with stopped(deployment, "slow-0", "slow-1"):
        for _ in range(40):
            others.send(timeout=20_000_000)
        with pytest.raises(InferenceServerException, match=r"Deadline Exceeded|reason=no_worker"):
            others.infer(1, timeout=20_000_000, client_timeout=0.2)
        end_s = time.monotonic() + 1.0
        while time.monotonic() < end_s and metrics(deployment).get(CANCELLED, 0) == before:
            time.sleep(0.02)
    assert others.wait(timeout_s=60) == 0
    others.close()


def test_counts_reach_the_metrics_endpoint(deployment: ServedDeployment, client: Client) -> None:
    before = metrics(deployment)
    for number in range(5):
        client.infer(number, timeout=PATIENT_US)
    frames = 'ppipe_frames_total{model="tiny"'
    wait_for(lambda: metrics(deployment).get(frames, 0) >= before.get(frames, 0) + 5)
    assert workers_up(deployment) == [1.0] * 4


@contextmanager
def stopped(deployment: ServedDeployment, *names: str) -> Iterator[None]:
    """These servers do nothing meanwhile."""
    pids = [status.pid for status in deployment.statuses if status.name in names and status.pid is not None]
    assert len(pids) == len(names)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def workers_up(deployment: ServedDeployment) -> list[float]:
    """Of each worker, 1 for up."""
    return [value for name, value in metrics(deployment).items() if name.startswith("ppipe_worker_up")]


def metrics(deployment: ServedDeployment) -> dict[str, float]:
    """The dispatcher's metrics, by name and labels without their end."""
    manifest = deployment.manifest
    url = f"http://{manifest.entry.host}:{manifest.models[0].feedback_port}/metrics"
    with urllib.request.urlopen(url, timeout=60) as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith("ppipe_")]
    return {line.rsplit("}", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_frames_of_a_higher_priority_are_served_first(deployment: ServedDeployment) -> None:
    """More frames at once than fit into the SLO: those of priority 1, the default, get through.

    On a busy host they may come so slowly that few of them ever wait side by side: tried some times.
    """
    tries = (served_by_priority(deployment, 480) for _ in range(5))
    assert any(urgent + other < 480 and urgent > 1.5 * other for urgent, other in tries)


def served_by_priority(deployment: ServedDeployment, number: int) -> tuple[int, int]:
    """How many of the frames, half of them of priority 1 and half of priority 9, are served."""
    manifest = deployment.manifest
    served: dict[int, int] = {1: 0, 9: 0}
    done = threading.Semaphore(0)

    def count(priority: int, error: Exception | None) -> None:
        served[priority] += error is None
        done.release()

    with triton.InferenceServerClient(f"{manifest.entry.host}:{manifest.entry.grpc_port}") as client:
        for index in range(number):
            priority = 9 if index % 2 else 1
            client.async_infer(
                manifest.models[0].dispatcher,
                [frame_input(INPUT, index)],
                lambda result, error, priority=priority: count(priority, error),
                parameters={"ppipe_priority": priority} if priority == 9 else None,
            )
        for _ in range(number):
            assert done.acquire(timeout=30)
    return served[1], served[9]
