"""The binaries that ppipe.serving.binaries finds work together: server, model, client, perf_analyzer."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from ppipe.serving.binaries import find_perf_analyzer, find_tritonserver
from tests.live.handmade import free_ports

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

# Says which interpreter runs it, to show that stubs see this environment and no other.
MODEL = """
import sys

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        frame = pb_utils.get_input_tensor_by_name(request, "FRAME").as_numpy()
        prefix = np.array([sys.prefix.encode()], dtype=np.object_)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor("SAME", frame), pb_utils.Tensor("PREFIX", prefix)]
        )
"""

CONFIG = """
name: "identity"
backend: "python"
max_batch_size: 0
input [ { name: "FRAME" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "SAME" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "PREFIX" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    version = tmp_path / "repository" / "identity" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return tmp_path / "repository"


@pytest.fixture
def grpc_address(repository: Path, tmp_path: Path) -> Iterator[str]:
    """A server of its own for the test; ended with it."""
    http, grpc = free_ports(2)
    prefix = f"ppipe_test_{os.getpid()}_{grpc}_"
    install = find_tritonserver()
    command = [
        *install.command(),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        "--load-model=identity",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
    ]
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=os.environ | install.environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(f"127.0.0.1:{grpc}", server, log)
        yield f"127.0.0.1:{grpc}"
    finally:
        _end(server)
    left = [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(prefix)]
    assert left == [], "a server that ends cleanly leaves no shared memory"


def test_a_client_gets_its_frame_back_from_this_environment(grpc_address: str) -> None:
    frame = np.linspace(0, 1, 1000, dtype=np.float32)
    tensor = triton.InferInput("FRAME", [1000], "FP32")
    tensor.set_data_from_numpy(frame)
    with triton.InferenceServerClient(grpc_address) as client:
        answer = client.infer("identity", [tensor], client_timeout=20)
    np.testing.assert_array_equal(answer.as_numpy("SAME"), frame)
    assert answer.as_numpy("PREFIX")[0].decode() == sys.prefix


def test_perf_analyzer_measures_it(grpc_address: str) -> None:
    analyzer = find_perf_analyzer()
    command = [
        *(str(analyzer.path), "-m", "identity", "-i", "grpc", "-u", grpc_address, "--shape", "FRAME:1000"),
        *("--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "99", "-r", "3"),
    ]
    done = subprocess.run(
        command, env=os.environ | analyzer.environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Throughput:" in done.stdout


def _wait_until_ready(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    with triton.InferenceServerClient(address) as client:
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if client.is_model_ready("identity", client_timeout=1):
                    return
            except triton.InferenceServerException:
                pass
            time.sleep(0.05)
    pytest.fail(f"the server did not get ready:\n{log.read_text()}")


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
