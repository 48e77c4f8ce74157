"""A pipeline within one server is called as one model, and everything else stays as it was."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from model_repo_generator.emulated import EmulatedPipeline, EmulatedStage
from planner.manifest import DeploymentManifest
from tests.live.data_plane_client import (
    CUT,
    OUTPUT,
    PATIENT_US,
    Client,
    frame_input,
    served,
    tag_of,
    two_stage_model,
)

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

LATENCY_US = (5_000, 6_000, 7_000, 8_000)


def metrics(manifest: DeploymentManifest) -> dict[str, float]:
    """Sums over labels, by series."""
    entry = manifest.models[0]
    found: dict[str, float] = {}
    with urllib.request.urlopen(
        f"http://{manifest.entry.host}:{entry.feedback_port}/metrics", timeout=60
    ) as page:
        for family in text_string_to_metric_families(page.read().decode()):
            for sample in family.samples:
                worker = sample.labels.get("worker", "")
                key = f"{sample.name} {worker}".strip()
                found[key] = found.get(key, 0.0) + sample.value
    return found


def test_a_pipeline_within_one_server_is_one_hop(tmp_path: Path) -> None:
    stages = (EmulatedStage(LATENCY_US, ("one",), CUT), EmulatedStage(LATENCY_US, ("one",), OUTPUT))
    model = two_stage_model(pipelines=(EmulatedPipeline(4, stages, ((500,) * 4,)),))
    with served(tmp_path, model, chains=True) as deployment:
        manifest = deployment.manifest
        (chain,) = manifest.models[0].chains
        client = Client(manifest)
        for number in range(30):
            assert tag_of(client.infer(number, timeout=PATIENT_US)["scores"]) == number
        for _ in range(40):
            client.send(timeout=PATIENT_US)
        assert client.wait(timeout_s=60) == 0
        assert (client.wrong, client.errors) == (0, {})
        client.close()
        found = metrics(manifest)
        assert found["ppipe_chained_batches_total"] == sum(
            value for name, value in found.items() if name.startswith("ppipe_batches_total")
        )
        for worker in chain.workers:
            assert found[f"ppipe_worker_batches_total {worker}"] == found["ppipe_chained_batches_total"]

        server = manifest.server(chain.server)
        direct = triton.InferenceServerClient(f"{server.host}:{server.grpc_port}")
        with pytest.raises(triton.InferenceServerException, match="called by their dispatcher"):
            direct.infer(chain.name, [frame_input(manifest.models[0].input, 1)])
        direct.close()
