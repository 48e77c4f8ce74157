"""Two revisions side by side in real tritonservers: all of both loads, new requests go to the new one."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from model_repo_generator.beside import generate_beside
from model_repo_generator.generate import generate
from planner.deployment import parse_deployment
from planner.plan import Plan
from planner.profile import Profile
from tests.generator.live_server import free_ports, running, wait_ready


@pytest.mark.live
def test_both_revisions_load_and_the_new_one_answers(
    data: dict[str, Any], profile: Profile, change_stage: Callable[..., Plan], tmp_path: Path
) -> None:
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["executor"] = "emulated"
    data["cluster"]["base_port"] = min(free_ports(20))
    data["models"][0]["slo_ms"] = 5000
    deployment = parse_deployment(data, "test")
    out = tmp_path / "repository"
    old = generate(deployment, profile, change_stage(0, 1, workers=2), out)
    new = generate_beside(deployment, profile, change_stage(0, 1, workers=1), out)
    assert {server.name for server in old.servers} == {server.name for server in new.servers}
    with contextlib.ExitStack() as stack:
        servers = {}
        for before, after in zip((*old.servers, old.entry), (*new.servers, new.entry), strict=True):
            models = sorted({*before.models, *after.models})
            log = tmp_path / f"{after.name}.log"
            server = stack.enter_context(running(out / after.repository, models, log, after.grpc_port))
            servers[after.name] = server, models
        for server, _ in servers.values():
            stack.callback(server.process.terminate)
        for server, models in servers.values():
            wait_ready(server, models)
        with triton.InferenceServerClient(servers["entry"][0].grpc) as client:
            for version in ("1", "2"):
                assert client.is_model_ready("net_dispatch", version)
            frame = np.zeros((1, 3, 8, 8), dtype=np.float32)
            tensor = triton.InferInput("image", frame.shape, "FP32").set_data_from_numpy(frame)
            for model in ("net_tensor", "net_dispatch"):
                answer = client.infer(model, [tensor], client_timeout=20)
                assert answer.as_numpy("logits").shape == (1, 5)
            old_answer = client.infer("net_dispatch", [tensor], model_version="1", client_timeout=20)
            assert old_answer.as_numpy("logits").shape == (1, 5)
        statistics = worker_requests(servers["fast-0"][0].grpc) | worker_requests(servers["slow-0"][0].grpc)
    assert any(count for name, count in statistics.items() if name.startswith("net.r2."))
    assert any(count for name, count in statistics.items() if not name.startswith("net.r2."))


def worker_requests(address: str) -> dict[str, int]:
    with triton.InferenceServerClient(address) as client:
        found = client.get_inference_statistics(as_json=True)["model_stats"]
    return {each["name"]: int(each.get("inference_count", 0)) for each in found}
