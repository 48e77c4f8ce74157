"""Another revision under load on real tritonservers: what stays serves on, and no frame is lost or wrong."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from model_repo_generator.beside import generate_beside
from model_repo_generator.generate import generate
from planner.deployment import Deployment, parse_deployment
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.profile import Profile
from planner.revision import Ack, HandOver, hand_over, read_acks
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from tests.generator.conftest import cut_after_one

PATIENT_SLO_MS = 20_000
"""A deadline that a busy test machine does not miss."""
CLIENTS = 6


@pytest.fixture
def deployment(data: dict[str, Any]) -> Deployment:
    """Emulated workers; clients send tensors and get the network's outputs, which begin as their frames."""
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["executor"] = "emulated"
    data["cluster"]["base_port"] = free_base(22_000, 20)
    for model in data["models"]:
        model["slo_ms"] = PATIENT_SLO_MS
        del model["preprocess"], model["postprocess"]
    return parse_deployment(data, "test")


def patient(plan: Plan) -> Plan:
    """As planned for PATIENT_SLO_MS."""
    model = dataclasses.replace(plan.models[0], slo_us=PATIENT_SLO_MS * 1_000)
    return dataclasses.replace(plan, models=(model,))


class Asking:
    """Clients that ask one frame after another, each frame once."""

    def __init__(self, address: str) -> None:
        self.asked = 0
        self.wrong: list[str] = []
        self._address = address
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client_number: int) -> None:
        frame = np.zeros((1, 3, 8, 8), dtype=np.float32)
        with triton.InferenceServerClient(self._address) as client:
            number = client_number
            while not self._stop.is_set():
                number += CLIENTS
                frame.view(np.int64)[0, 0, 0, 0] = number
                tensor = triton.InferInput("image", frame.shape, "FP32").set_data_from_numpy(frame)
                self._note(client, tensor, number)

    def _note(self, client: Any, tensor: Any, number: int) -> None:
        try:
            answer = client.infer("net", [tensor], client_timeout=60).as_numpy("logits")
            got = int(np.ascontiguousarray(answer).view(np.uint8).ravel()[:8].view(np.int64)[0])
            said = "" if got == number else f"frame {number} got the answer of {got}"
        except triton.InferenceServerException as error:
            said = str(error)
        with self._lock:
            self.asked += 1
            self.wrong += [said] * bool(said)


@contextlib.contextmanager
def serving(repository: Path, logs: Path) -> Iterator[ServedDeployment]:
    with ServedDeployment(repository, logs) as served:
        served.start()
        yield served


def models(manifest: DeploymentManifest) -> set[tuple[str, str]]:
    return {(server.name, model) for server in manifest.servers for model in server.models}


def wait_for(true: Callable[[], object]) -> None:
    end_s = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def ready(manifest: DeploymentManifest, wanted: Iterable[tuple[str, str]]) -> list[bool]:
    """Whether each of these models of servers is loaded."""
    found = []
    for server, model in wanted:
        with triton.InferenceServerClient(manifest.server(server).grpc_address) as client:
            found.append(client.is_model_ready(model))
    return found


@pytest.mark.live
def test_a_running_dispatcher_is_handed_another_revision_under_load(
    deployment: Deployment, profile: Profile, plan: Plan, change_stage: Callable[..., Plan], tmp_path: Path
) -> None:
    out, logs = tmp_path / "repository", tmp_path / "logs"
    old = generate(deployment, profile, patient(plan), out)
    with serving(out, logs) as served, Asking(old.entry.grpc_address) as asking:

        def ack() -> Ack:
            return read_acks(served.revisions, ["net"])["net"]

        def more(frames: int) -> None:
            before = asking.asked
            wait_for(lambda: asking.asked >= before + frames)

        more(20)
        assert (ack().number, ack().revision) == (0, 1)
        new = generate_beside(deployment, profile, patient(cut_after_one(change_stage)), out)
        for number, (before, after) in enumerate([(old, new), (new, old)], start=1):
            added, gone = models(after) - models(before), models(before) - models(after)
            kept = models(before) & models(after)
            assert (len(added), len(gone), len(kept)) == (4, 4, 1)
            for server, model in added:
                served.load(server, model)
            wait_for(lambda added=added: all(ready(old, added)))  # type: ignore[misc]
            more(20)
            hand_over(served.revisions, HandOver(number, after))
            wait_for(lambda number=number: ack().is_over(number))  # type: ignore[misc]
            for server, model in gone:
                served.unload(server, model)
            wait_for(lambda gone=gone: not any(ready(old, gone)))  # type: ignore[misc]
            more(40)
            assert (ack().revision, ack().reason, ack().older_workers) == (after.epoch, "", ())
    assert asking.wrong == []
    ((server, model),) = models(old) & models(new)
    log = (logs / f"{server}.log").read_text()
    assert log.count(f"successfully loaded '{model}'") == 1, "what stays is not loaded anew"
