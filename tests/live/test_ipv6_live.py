"""Everything on ::1: profile to serve, status, bench by gRPC, and a picture by plain HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from planner.deployment import load_deployment
from ppipe.bench.frames import encode_jpeg, make_pictures
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from tests.live.tiny_net import write_tiny

pytestmark = [pytest.mark.live, pytest.mark.unhurried]


@pytest.fixture(scope="module")
def deployment_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network's, every host written as people write an IPv6 address."""
    path = write_tiny(tmp_path_factory.mktemp("ipv6"), base_port=free_base(23_000, 20))
    plain = yaml.safe_load(path.read_text())
    plain["cluster"]["entry"] = {"host": "[::1]"}
    for group in plain["cluster"]["groups"]:
        group["host"] = "0:0:0:0:0:0:0:1"
    path.write_text(yaml.safe_dump(plain))
    return path


@pytest.fixture(scope="module")
def served(deployment_file: Path) -> Iterator[ServedDeployment]:
    work = deployment_file.parent / "work"
    for command in ("profile", "plan", "generate"):
        assert run([command, str(deployment_file), "--work", str(work)]) == 0
    with ServedDeployment(work / "repository", work / "logs") as deployment:
        deployment.start()
        yield deployment


def test_every_address_is_kept_in_its_one_form(deployment_file: Path, served: ServedDeployment) -> None:
    assert {server.host for server in load_deployment(deployment_file).to_cluster().servers} == {"::1"}
    assert served.manifest.entry.grpc_address.startswith("[::1]:")


def test_frames_are_answered_rightly_and_notices_arrive(
    deployment_file: Path, served: ServedDeployment, capsys: pytest.CaptureFixture[str]
) -> None:
    work = str(deployment_file.parent / "work")
    load = ("--load", "0.5", "--seconds", "4")
    assert run(["bench", str(deployment_file), "--work", work, *load, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["unanswered"], result["mismatched"], result["failed"]) == (0, 0, 0)
    assert result["answered"] > 0.5 * result["requests"] > 0
    model = served.manifest.models[0]
    with urllib.request.urlopen(served.manifest.metrics_url(model), timeout=5) as answer:
        page = answer.read().decode()
    # Workers tell of their threads through the notices' sockets.
    for _, worker in model.served.workers():
        assert any(line.startswith("ppipe_threads") and worker.name in line for line in page.splitlines())


def test_status_says_that_all_answer(
    deployment_file: Path, served: ServedDeployment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", str(deployment_file), "--work", str(deployment_file.parent / "work")]) == 0
    assert "[::1]:" in capsys.readouterr().out


def test_a_picture_goes_by_plain_http(served: ServedDeployment) -> None:
    model = served.manifest.models[0]
    url = f"http://{served.manifest.entry.http_address}/v2/models/{model.body_ensemble}/infer"
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, encode_jpeg(make_pictures(1, seed=3)[0]), headers)
    with urllib.request.urlopen(request, timeout=20) as reply:
        content = reply.read()[: int(reply.headers["Inference-Header-Content-Length"])]
    names = {tensor["name"] for tensor in json.loads(content)["outputs"]}
    assert names == {spec.name for spec in model.outputs}
