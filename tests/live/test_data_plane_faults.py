"""What breaks under load is survived: every frame is answered once, and what broke comes back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from model_repo_generator.emulated import EmulatedPipeline, EmulatedStage
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.processes import stubs_of
from tests.live.data_plane_client import Client, served, tag_of, two_stage_model

pytestmark = [pytest.mark.live, pytest.mark.slow]

INPUT = TensorSpec("frame", "FP32", (30_000,))
CUT = (TensorSpec("cut0", "FP32", (40_000,)), TensorSpec("cut1", "FP16", (1_000,)))
SCORES = (TensorSpec("scores", "FP32", (10,)),)
LATENCY_US = (10_000, 12_000, 14_000, 16_000)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[ServedDeployment]:
    """Tensors large enough for shared memory, every pool over two servers."""
    pipeline = EmulatedPipeline(
        batch_size=2,
        stages=(
            EmulatedStage(LATENCY_US, ("slow-0", "slow-1"), CUT),
            EmulatedStage(LATENCY_US, ("fast-0", "fast-1"), SCORES),
        ),
        transfer_us=((1_000,) * 4,),
    )
    model = two_stage_model(input=INPUT, pipelines=(pipeline,), slo_us=250_000)
    with served(tmp_path, model) as deployment:
        yield deployment


@contextmanager
def load(deployment: ServedDeployment, rps: float, seconds: float) -> Iterator[Client]:
    """Frames at a steady rate while the body runs and until `seconds` are over."""
    client = Client(deployment.manifest)

    def send() -> None:
        start_s = time.monotonic()
        for number in range(int(rps * seconds)):
            time.sleep(max(0.0, start_s + number / rps - time.monotonic()))
            client.send()

    thread = Thread(target=send)
    thread.start()
    try:
        yield client
    finally:
        thread.join()
        unanswered = client.wait(timeout_s=60)
        client.close()
        assert unanswered == 0


def pid_of(deployment: ServedDeployment, server: str) -> int:
    (pid,) = [status.pid for status in deployment.statuses if status.name == server]
    assert pid is not None
    return pid


def kill_stub(deployment: ServedDeployment) -> None:
    stubs = stubs_of(pid_of(deployment, "fast-0"))
    os.kill(next(iter(stubs.values())).pid, signal.SIGKILL)


def kill_server(deployment: ServedDeployment) -> None:
    os.kill(pid_of(deployment, "fast-0"), signal.SIGKILL)


def stop_for_a_while(deployment: ServedDeployment) -> None:
    pid = pid_of(deployment, "fast-0")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [kill_stub, kill_server, stop_for_a_while])
def test_no_frame_is_lost_and_the_worker_comes_back(
    deployment: ServedDeployment, fault: Callable[[ServedDeployment], None]
) -> None:
    with load(deployment, rps=60, seconds=10) as client:
        time.sleep(2)
        fault(deployment)
    assert client.wrong == 0
    assert set(client.answers.values()) == {1}
    assert len(client.latencies_s) > 0.6 * len(client.answers), client.errors
    deployment.wait_until_serving()
    with load(deployment, rps=60, seconds=2) as after:
        pass
    assert after.wrong == 0
    assert len(after.latencies_s) >= 0.7 * len(after.answers), after.errors


def test_killing_the_dispatcher_stub_leaves_nobody_waiting(deployment: ServedDeployment) -> None:
    with load(deployment, rps=60, seconds=4) as client:
        time.sleep(1)
        stub = stubs_of(pid_of(deployment, "entry"))["tiny"]
        os.kill(stub.pid, signal.SIGKILL)
    assert client.wrong == 0
    end_s = time.monotonic() + 30
    again = Client(deployment.manifest)
    while time.monotonic() < end_s:
        try:
            assert tag_of(again.infer(5, client_timeout=2)["scores"]) == 5
            break
        except Exception:
            time.sleep(0.2)
    else:
        pytest.fail("the entry server did not come back")
    again.close()
