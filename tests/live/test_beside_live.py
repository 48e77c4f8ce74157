"""A roll-out under load on real tritonservers: a new revision takes over, and no request is lost."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
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
from tests.live.live_server import LiveServer, free_ports, running, wait_ready

Servers = dict[str, LiveServer]
PATIENT_SLO_MS = 20_000
"""A deadline that a busy test machine does not miss."""


@pytest.fixture
def deployment(data: dict[str, Any]) -> Deployment:
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["executor"] = "emulated"
    data["cluster"]["base_port"] = min(free_ports(20))
    for model in data["models"]:
        model["slo_ms"] = PATIENT_SLO_MS
    return parse_deployment(data, "test")


def patient(plan: Plan) -> Plan:
    """As planned for PATIENT_SLO_MS."""
    return dataclasses.replace(
        plan, models=(dataclasses.replace(plan.models[0], slo_us=PATIENT_SLO_MS * 1_000),)
    )


@contextlib.contextmanager
def serving(manifest: DeploymentManifest, out: Path, logs: Path) -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        servers = {
            server.name: stack.enter_context(
                running(out / server.repository, server.models, logs / f"{server.name}.log", server.grpc_port)
            )
            for server in (*manifest.servers, manifest.entry)
        }
        for live in servers.values():
            stack.callback(live.process.terminate)
        for server in (*manifest.servers, manifest.entry):
            wait_ready(servers[server.name], server.models)
        yield servers


@contextlib.contextmanager
def asking(address: str) -> Iterator[list[str]]:
    """A client that asks one frame after another; yields its answers: 'ok' or an error."""
    answers: list[str] = []
    stop = threading.Event()
    frame = np.zeros((1, 3, 8, 8), dtype=np.float32)

    def ask() -> None:
        with triton.InferenceServerClient(address) as client:
            while not stop.is_set():
                tensor = triton.InferInput("image", frame.shape, "FP32").set_data_from_numpy(frame)
                try:
                    client.infer("net", [tensor], client_timeout=60)
                    answers.append("ok")
                except triton.InferenceServerException as error:
                    answers.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


@pytest.mark.live
def test_a_new_revision_takes_over_under_load(
    deployment: Deployment, profile: Profile, change_stage: Callable[..., Plan], tmp_path: Path
) -> None:
    out = tmp_path / "repository"
    old = generate(deployment, profile, patient(change_stage(0, 1, workers=2)), out)
    with serving(old, out, tmp_path) as servers, asking(servers["entry"].grpc) as answers:
        new = generate_beside(deployment, profile, patient(change_stage(0, 1, workers=1)), out)
        for server in (*new.servers, new.entry):
            with triton.InferenceServerClient(servers[server.name].grpc) as client:
                for model in server.models:
                    client.load_model(model)
        for server in (old.entry, *old.servers):
            with triton.InferenceServerClient(servers[server.name].grpc) as client:
                for model in set(server.models) - set(new.entry.models):
                    client.unload_model(model)
        before = len(answers)
        wait_until(lambda: len(answers) > before + 2)
        counts = {name: count for server in new.servers for name, count in frames(servers[server.name])}
    assert set(answers) == {"ok"}
    assert any(counts[model] for server in new.servers for model in server.models)


def frames(server: LiveServer) -> Iterator[tuple[str, int]]:
    """Frames that each loaded model of a server has answered."""
    with triton.InferenceServerClient(server.grpc) as client:
        for each in client.get_inference_statistics(as_json=True)["model_stats"]:
            yield each["name"], int(each.get("inference_count", 0))


def wait_until(done: Callable[[], bool]) -> None:
    ended = threading.Event()
    for _ in range(600):
        if done():
            return
        ended.wait(0.1)
    raise AssertionError("waited a minute")
