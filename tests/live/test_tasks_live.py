"""Detection and segmentation from frame to answer, on servers that have nothing of ours installed.

The repository is self-contained and its servers' Python has all packages but this checkout. What comes back
must be what torch and the same steps give here. And a repository made for other versions is refused when it
is loaded, with both versions named.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from PIL import Image

from ensembles.detection import Suppression, detect, label_map
from ensembles.graphs import DETECTED_BOXES, DETECTED_CLASSES, DETECTED_SCORES
from ensembles.prepare.pixels import encoded_input, raw_input
from model_repo_generator.generate import generate
from planner.deployment import Deployment, parse_deployment
from planner.manifest import DeploymentManifest
from planner.places import PLACE_NAME
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan, Stage
from planner.profile import Profile
from planner.profiling.networks.loading import load_network
from planner.profiling.run import ProfileOptions, profile_deployment
from tests.ensembles.recipes import recipe
from tests.live.handmade import free_ports
from tests.live.live_server import LiveServer, running, wait_ready

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

NETWORKS = '''
import torch


class Detector(torch.nn.Module):
    """40 boxes in a frame of 32 x 24, and a score for each of 3 classes."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.head = torch.nn.Linear(8 * 6 * 8, 40 * 7)

    def forward(self, image):
        found = self.head(torch.relu(self.body(image)).flatten(1)).reshape(-1, 40, 7)
        corner, size, scores = found.sigmoid().split([2, 2, 3], dim=2)
        return torch.cat([24 * corner, 24 * corner + 12 * size], dim=2), scores


class Segmenter(torch.nn.Module):
    """5 classes at half the frame's size."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.head = torch.nn.Conv2d(8, 5, 1)

    def forward(self, image):
        scores = self.head(torch.relu(self.body(image)))
        return scores - scores.mean((2, 3), keepdim=True)
'''
HEIGHT, WIDTH = 24, 32
RECIPE = recipe((3, HEIGHT, WIDTH))
RULE = {"max_boxes": 6, "min_score": 0.3, "max_overlap": 0.4}


@dataclass(frozen=True)
class Served:
    """What was generated, and the address of its entry."""

    deployment: Deployment
    root: Path
    manifest: DeploymentManifest
    entry: str

    def infer(self, model: str, tensor: triton.InferInput) -> triton.InferResult:
        with triton.InferenceServerClient(self.entry) as client:
            return client.infer(model, [tensor], client_timeout=30)


def model(name: str, factory: str, preprocess: str, postprocess: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "program": {"factory": f"generator_task_nets:{factory}"},
        "input": {"name": "image", "shape": [3, HEIGHT, WIDTH]},
        "slo_ms": 10_000,
        "batch_sizes": [1, 2],
        "blocks": 2,
        "preprocess": {"kind": preprocess},
        "postprocess": postprocess,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "generator_task_nets.py").write_text(NETWORKS)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def deployment(folder: Path) -> Deployment:
    speed = {"gflop_per_s": 50, "gbyte_per_s": 10, "overhead_us": 2000}
    return parse_deployment(
        {
            "name": "tasks",
            "cluster": {
                "base_port": min(free_ports(20)),
                "gpu_classes": [{"name": "only", "executor": "cpu", "stated": speed}],
                "groups": [{"gpu": "only", "count": 1, "gpus_per_server": 2}],
            },
            "models": [
                model("boxes", "Detector", "jpeg", {"task": "detection", **RULE}),
                model("areas", "Segmenter", "raw", {"task": "segmentation"}),
            ],
        },
        "test",
    )


def whole(profile: Profile) -> Plan:
    """Each model unsplit on a worker of its own."""
    models = []
    for measured in profile.models:
        stage = Stage(
            blocks=BlockRange(0, measured.block_count), gpu="only", slices_per_gpu=1, batch_size=1,
            workers=1, latency_us=1000.0,
        )  # fmt: skip
        pipeline = Pipeline(stages=(stage,), transfer_us=(), throughput_rps=50.0)
        models.append(
            ModelPlan(
                model=measured.model, slo_us=10_000_000, slo_margin=0.4, pipelines=(pipeline,),
                throughput_rps=50.0,
            )
        )  # fmt: skip
    return Plan(planner="test", objective=1.0, upper_bound=1.0, gap=0.0, solver="none", models=tuple(models))


@pytest.fixture(scope="module")
def python_without_us(folder: Path) -> Path:
    """A virtual environment with every package of this one, but not this checkout: no .pth of it is read."""
    home = folder / "venv"
    venv.create(home, symlinks=True)
    (packages,) = (home / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home / "bin"


@pytest.fixture(scope="module")
def served(deployment: Deployment, folder: Path, python_without_us: Path) -> Iterator[Served]:
    profile = profile_deployment(deployment, options=ProfileOptions(check_stated=False))
    root = folder / "repository"
    manifest = generate(deployment, profile, whole(profile), root, self_contained=True)
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.delenv("PYTHONPATH", raising=False)
        started = {}
        for server in (*manifest.servers, manifest.entry):
            started[server.name] = stack.enter_context(
                running(
                    root / server.repository,
                    server.models,
                    folder / f"{server.name}.log",
                    server.grpc_port,
                    first_on_path=python_without_us,
                )
            )
            # The entry comes last: a worker that it does not find is out until it is asked again.
            wait_ready(started[server.name], server.models)
        for live in started.values():
            stack.callback(live.process.terminate)  # all at once, then each is waited for
        yield Served(deployment=deployment, root=root, manifest=manifest, entry=started["entry"].grpc)


def frame(seed: int, height: int = 57, width: int = 91) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def outputs(served: Served, name: str, image: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        result = load_network(served.deployment.model(name))(torch.from_numpy(image[None]))
    return [part.numpy()[0] for part in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_boxes_are_those_of_torch_and_the_same_steps(served: Served, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(frame(1)).save(buffer, format=kind)
    tensor = triton.InferInput("jpeg", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[buffer.getvalue()]], dtype=np.object_))
    answer = served.infer("boxes", tensor)
    boxes, scores = outputs(served, "boxes", encoded_input(buffer.getvalue(), RECIPE))
    expected = detect(boxes, scores, Suppression(**RULE))
    assert (expected.classes >= 0).sum() >= 2, "a test that finds nothing says nothing"
    np.testing.assert_array_equal(answer.as_numpy(DETECTED_CLASSES)[0], expected.classes)
    as_sent = expected.boxes * np.array([91 / WIDTH, 57 / HEIGHT] * 2, np.float32)
    np.testing.assert_allclose(answer.as_numpy(DETECTED_BOXES)[0], as_sent, atol=1e-3)
    np.testing.assert_allclose(answer.as_numpy(DETECTED_SCORES)[0], expected.scores, atol=1e-4)


def test_a_label_map_is_that_of_torch_and_the_same_steps(served: Served) -> None:
    raw = frame(2)
    tensor = triton.InferInput("frame", [1, *raw.shape], "UINT8").set_data_from_numpy(raw[None])
    answer = served.infer("areas", tensor)
    (scores,) = outputs(served, "areas", raw_input(raw, RECIPE))
    expected = label_map(scores[None])
    assert len(np.unique(expected)) >= 2
    np.testing.assert_array_equal(answer.as_numpy("label_map"), expected)


def test_stubs_ran_without_this_checkout(served: Served, python_without_us: Path) -> None:
    """Their bytecode of the run time lies in the repository, so that is what they imported."""
    imports = [python_without_us / "python3", "-c", "import torch, tritonclient, planner"]
    done = subprocess.run(imports, cwd="/", capture_output=True, text=True, check=False)
    assert "No module named 'planner'" in done.stderr
    assert list(served.root.glob("runtime/python_backend/triton/__pycache__/stage.*.pyc"))


def test_stubs_run_in_the_environment_that_the_deployment_file_names(
    deployment: Deployment, python_without_us: Path, tmp_path: Path
) -> None:
    home = python_without_us.parent
    ports = deployment.cluster.model_copy(update={"base_port": min(free_ports(20))})
    named = deployment.model_copy(update={"execution_env": home, "cluster": ports})
    profile = profile_deployment(named, options=ProfileOptions(check_stated=False))
    root = tmp_path / "repository"
    manifest = generate(named, profile, whole(profile), root, self_contained=True, export=False)
    models = ["boxes"]
    with running(root / manifest.entry.repository, models, tmp_path / "log") as live:
        wait_ready(live, models)
        assert f"VIRTUAL_ENV={home}" in environment_of_stub(live.process.pid)


def environment_of_stub(server: int) -> list[str]:
    """Of the first process below the server, or below a shell that it started."""
    family = {server}
    for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) not in family:
                continue
            family.add(int(path.name))
            if "triton_python_backend_stub" in (path / "cmdline").read_text().partition("\0")[0]:
                return (path / "environ").read_text().split("\0")
    raise AssertionError(f"no stub below {server}")


@pytest.mark.parametrize(
    ("package", "here"),
    [("torch", torch.__version__.partition("+")[0]), ("python", sys.version.partition(" ")[0])],
)
def test_a_repository_for_other_versions_is_refused_when_loaded(
    served: Served, tmp_path: Path, package: str, here: str
) -> None:
    root = tmp_path / "repository"
    shutil.copytree(served.root, root, copy_function=os.link)
    (server,) = served.manifest.servers
    place = root / server.repository / server.models[0] / PLACE_NAME
    text = place.read_text()
    place.unlink()
    made_for = served.manifest.versions[package]
    assert text.count(f'"{package}": "{made_for}"') == 1
    place.write_text(text.replace(f'"{package}": "{made_for}"', f'"{package}": "1.0"'))
    log = tmp_path / "server.log"
    with running(root / server.repository, server.models[:1], log) as live:
        said = wait_for(live, "failed to load")
    assert f"generated for {package} 1.0, but this server has {package} {here}" in said


def wait_for(server: LiveServer, words: str, seconds: float = 100.0) -> str:
    deadline = time.monotonic() + seconds
    while words not in server.said():
        assert time.monotonic() < deadline, server.said()
        time.sleep(0.1)
    return server.said()
