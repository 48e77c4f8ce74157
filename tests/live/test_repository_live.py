"""A generated repository, entry and stages, loads in real tritonservers and answers as torch does."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from PIL import Image

from ensembles.prepare.pixels import encoded_input
from model_repo_generator.comparison.plain import generate_plain
from model_repo_generator.generate import generate
from planner.deployment import Deployment, parse_deployment
from planner.manifest import RAGGED, DeploymentManifest
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan, Stage
from planner.profile import ModelProfile, Profile
from planner.profiling.run import ProfileOptions, profile_deployment
from tests.ensembles.recipes import recipe
from tests.live.handmade import free_ports
from tests.live.live_server import LiveServer, running, wait_ready

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

NETWORK = '''
import torch


class Residual(torch.nn.Module):
    """Small, with a tensor that passes a cut by: the skip around the second convolution."""

    def __init__(self, classes):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.third = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.last = torch.nn.Linear(8, classes)

    def forward(self, image):
        skip = torch.relu(self.first(image))
        deep = torch.relu(self.third(torch.relu(self.second(skip))))
        return self.last((skip + deep).mean((2, 3)))


def make(classes=7):
    return Residual(classes)
'''
PROBE = {"ppipe_ticket": '{"probe": true}'}
"""Without a ticket a stage answers nobody; to this one it answers with its own outputs, and zeros."""
LABELS = ("cat", "dog", 'a "quoted" one', "Käfer", "{ }", "six", "seven")


@dataclass(frozen=True)
class Served:
    """A generated deployment whose servers run."""

    deployment: Deployment
    manifest: DeploymentManifest
    servers: dict[str, LiveServer]

    def infer(self, server: str, model: str, tensor: triton.InferInput) -> triton.InferResult:
        with triton.InferenceServerClient(self.servers[server].grpc) as client:
            return client.infer(model, [tensor], client_timeout=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("deployment")
    (folder / "generator_live_net.py").write_text(NETWORK)
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def deployment(folder: Path) -> Deployment:
    first = min(free_ports(20))
    speed = {"gflop_per_s": 50, "gbyte_per_s": 10, "overhead_us": 5000}
    data = {
        "name": "live",
        "cluster": {
            "base_port": first,
            "gpu_classes": [
                {"name": "fast", "executor": "cpu", "stated": speed},
                {"name": "slow", "executor": "cpu", "stated": speed},
            ],
            "groups": [
                {"gpu": "fast", "count": 1, "gpus_per_server": 1},
                {"gpu": "slow", "count": 1, "gpus_per_server": 3},
            ],
        },
        "models": [
            {
                "name": "net",
                "program": {"factory": "generator_live_net:make"},
                "input": {"name": "image", "shape": [3, 16, 24]},
                "slo_ms": 5000,
                "batch_sizes": [1, 2],
                "blocks": 4,
                "preprocess": {"kind": "jpeg"},
                "postprocess": {
                    "task": "classification",
                    "top_k": 3,
                    "labels": "labels.txt",
                    "raw_outputs": True,
                },
            }
        ],
    }
    return parse_deployment(data, "test")


@pytest.fixture(scope="module")
def profile(deployment: Deployment) -> Profile:
    return profile_deployment(deployment, options=ProfileOptions(check_stated=False))


@pytest.fixture(scope="module")
def served(deployment: Deployment, profile: Profile, folder: Path) -> Iterator[Served]:
    out, plain_out = folder / "repository", folder / "plain"
    manifest = generate(deployment, profile, two_pipelines(profile.model("net")), out, base=folder)
    plain = generate_plain(deployment, profile, plain_out)
    with contextlib.ExitStack() as stack:
        servers = {}
        # The entry comes after its stages: a worker that it does not find is out until it is asked again.
        for root, server in [
            *((out, server) for server in (*manifest.servers, manifest.entry)),
            (plain_out, plain.servers[0]),
        ]:
            name = f"{root.name}/{server.name}"
            port = server.grpc_port if root == out else 0
            log = folder / f"{root.name}-{server.name}.log"
            servers[name] = stack.enter_context(running(root / server.repository, server.models, log, port))
            wait_ready(servers[name], server.models)
        for live in servers.values():
            stack.callback(live.process.terminate)  # all at once, then each is waited for
        yield Served(deployment=deployment, manifest=manifest, servers=servers)


def two_pipelines(profile: ModelProfile) -> Plan:
    """Cut where two tensors live, one of them around the cut's own operator: over two classes, and in one."""
    cut = next(index for index, tensors in enumerate(profile.cut_tensors) if len(tensors) > 1)
    blocks = (BlockRange(0, cut + 1), BlockRange(cut + 1, profile.block_count))
    pipelines = tuple(
        Pipeline(
            stages=tuple(
                Stage(blocks=part, gpu=gpu, slices_per_gpu=1, batch_size=1, workers=1, latency_us=1000.0)
                for part, gpu in zip(blocks, gpus, strict=True)
            ),
            transfer_us=(100.0,),
            throughput_rps=100.0,
        )
        for gpus in (("fast", "slow"), ("slow", "slow"))
    )
    model = ModelPlan(
        model="net", slo_us=5_000_000, slo_margin=0.4, pipelines=pipelines, throughput_rps=200.0
    )
    return Plan(planner="test", objective=1.0, upper_bound=1.0, gap=0.0, solver="none", models=(model,))


def network(deployment: Deployment) -> torch.nn.Module:
    from planner.profiling.networks.loading import load_network

    return load_network(deployment.model("net"))


def jpeg(width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def encoded(data: bytes, rows: int = 1) -> triton.InferInput:
    tensor = triton.InferInput("jpeg", [rows, 1], "BYTES")
    return tensor.set_data_from_numpy(np.array([[data]] * rows, dtype=np.object_))


def test_an_image_is_answered_as_torch_would(served: Served) -> None:
    answer = served.infer("repository/entry", "net", encoded(jpeg()))
    image = encoded_input(jpeg(), recipe((3, 16, 24)))
    with torch.no_grad():
        logits = network(served.deployment)(torch.from_numpy(image[None]))[0]
    scores, classes = logits.softmax(0).topk(3)
    np.testing.assert_allclose(first_output(served, answer), logits, atol=1e-4)
    np.testing.assert_array_equal(answer.as_numpy("classes"), [classes.tolist()])
    np.testing.assert_allclose(answer.as_numpy("scores"), [scores.tolist()], atol=1e-4)
    assert [label.decode() for label in answer.as_numpy("labels")[0]] == [LABELS[i] for i in classes]


def first_output(served: Served, answer: triton.InferResult) -> np.ndarray:
    return answer.as_numpy(served.manifest.models[0].outputs[0].name)[0]


def test_a_tensor_is_answered_as_torch_would(served: Served) -> None:
    frame = np.random.default_rng(5).standard_normal((1, 3, 16, 24), dtype=np.float32)
    tensor = triton.InferInput("image", [1, 3, 16, 24], "FP32").set_data_from_numpy(frame)
    answer = served.infer("repository/entry", "net", tensor)
    with torch.no_grad():
        expected = network(served.deployment)(torch.from_numpy(frame))[0]
    np.testing.assert_allclose(first_output(served, answer), expected, atol=1e-4)


def test_a_pipeline_within_a_server_is_one_model_too(served: Served) -> None:
    (chain,) = served.manifest.models[0].chains
    assert chain.name.partition(".b")[2] == "0-2-4.slow-0.g2s0of1-g1s0of1", "after its places"
    assert chain.server == "slow-0"
    tensor = triton.InferInput(RAGGED, (2, 1), "BYTES")
    tensor.set_data_from_numpy(np.full((2, 1), jpeg(), dtype=np.object_))
    with triton.InferenceServerClient(served.servers["repository/slow-0"].grpc) as client:
        answer = client.infer(chain.name, [tensor], parameters=PROBE, client_timeout=20)
    assert answer.as_numpy(served.manifest.models[0].outputs[0].name).shape == (2, 7)


def test_what_is_no_image_is_refused_and_says_so(served: Served) -> None:
    with pytest.raises(triton.InferenceServerException, match="no complete JPEG or PNG") as fault:
        served.infer("repository/entry", "net", encoded(jpeg()[:200]))
    assert "INVALID_ARGUMENT" in str(fault.value.status())


def test_two_frames_of_one_request_are_answered_together(served: Served) -> None:
    alone = served.infer("repository/entry", "net", encoded(jpeg())).as_numpy("classes")
    both = served.infer("repository/entry", "net", encoded(jpeg(), rows=2)).as_numpy("classes")
    np.testing.assert_array_equal(both, np.repeat(alone, 2, axis=0))


def test_servers_that_end_leave_the_repository_as_it_was_written(served: Served, folder: Path) -> None:
    from model_repo_generator.writing.write import check_ours

    check_ours(folder / "repository")


def test_the_comparison_answers_too(served: Served) -> None:
    frame = np.random.default_rng(7).standard_normal((1, 3, 16, 24), dtype=np.float32)
    tensor = triton.InferInput("image", [1, 3, 16, 24], "FP32").set_data_from_numpy(frame)
    answer = served.infer("plain/fast-0", "net.plain.w0", tensor)
    with torch.no_grad():
        expected = network(served.deployment)(torch.from_numpy(frame))[0]
    np.testing.assert_allclose(first_output(served, answer), expected, atol=1e-4)
