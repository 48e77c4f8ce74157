"""ONNX networks on real tritonservers: PP-OCR's text detection in two stages, and networks of two inputs, of
both kinds, one of them with frames to prepare. Every answer is the unsplit network's, run by plain
onnxruntime or torch. Requests of several frames are answered together.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from planner.deployment import beside_the_picture, load_deployment
from ppipe.bench.frames import encode_jpeg, make_inputs_of, make_pictures
from ppipe.bench.loadgen import LoadOptions, send_load
from ppipe.bench.outcome import Fate
from ppipe.bench.perf_analyzer import run_perf_analyzer
from ppipe.bench.reference import make_references
from ppipe.bench.target import served_target
from ppipe.bench.workload import make_workload
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from tests.onnx import files

pytestmark = pytest.mark.live

FRAMES = 6
BATCH = 4
DEPLOYMENT = """
name: files
cluster:
  base_port: {base_port}
  gpu_classes:
    - {{name: fast, executor: cpu, stated: {{gflop_per_s: 4, gbyte_per_s: 8, overhead_us: 300}}}}
    - {{name: slow, executor: cpu, stated: {{gflop_per_s: 1, gbyte_per_s: 2, overhead_us: 300}}}}
  groups:
    - {{gpu: fast, count: 1, gpus_per_server: 3}}
    - {{gpu: slow, count: 1, gpus_per_server: 3}}
models:
  - name: text
    program: {{onnx: "{text}"}}
    input: {{name: x, shape: [3, 64, 96]}}
    slo_ms: 600
    slo_margin: 0.88
    batch_sizes: [1, 2]
  - name: sized
    program: {{onnx: "{sized}"}}
    inputs:
      - {{name: size, dtype: INT64, shape: [2]}}
      - {{name: image, shape: [3, 16, 16]}}
    preprocess: {{kind: jpeg, input: image, frame: {{width: 64, height: 48}}}}
    slo_ms: 600
    batch_sizes: [1, 2, 4]
    blocks: 2
  - name: pair
    program: {{factory: "tests.profiling.nets:TwoInputs"}}
    inputs:
      - {{name: image, shape: [3, 8, 8]}}
      - {{name: size, dtype: INT64, shape: [2]}}
    slo_ms: 600
    batch_sizes: [1, 2]
    blocks: 2
planner: {{max_stages: 2, slo_margin: 0.4}}
"""


def ocr_file(name: str) -> Path:
    """Of the wheel rapidocr-onnxruntime, without importing it: it asks for more than its files."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / name


@dataclass
class Files:
    deployment_file: Path
    work: Path
    served: ServedDeployment


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    folder = tmp_path_factory.mktemp("files")
    path = folder / "deployment.yaml"
    sized = files.saved(files.sized(), folder / "sized.onnx")
    path.write_text(
        DEPLOYMENT.format(
            base_port=free_base(first=25_000, count=40),
            text=ocr_file("ch_PP-OCRv4_det_infer.onnx"),
            sized=sized,
        ),
        encoding="utf-8",
    )
    for command in ("profile", "plan", "generate"):
        assert run([command, str(path), "--work", str(folder / "work")]) == 0
    assert run(["generate", str(path), "--work", str(folder / "work"), "--check"]) == 0
    assert run(["lint", str(folder / "work" / "repository"), "--strict"]) == 0
    with ServedDeployment(folder / "work" / "repository", folder / "work" / "logs") as deployment:
        deployment.start()
        yield Files(path, folder / "work", deployment)


def test_text_detection_is_served_in_two_stages(served: Files) -> None:
    (pipeline, *_) = sorted(served.served.manifest.model("text").programs, key=lambda stages: -len(stages))
    assert len(pipeline) == 2
    assert all(program.program.endswith(".onnx") for program in pipeline)


@pytest.mark.parametrize("model", ["text", "sized", "pair"])
def test_every_answer_is_the_unsplit_networks(served: Files, model: str) -> None:
    deployment = load_deployment(served.deployment_file)
    specs = {spec.name: spec for spec in deployment.models}
    pictures = make_pictures(FRAMES, seed=3)
    tensors = {name: make_inputs_of(beside_the_picture(spec), FRAMES, seed=3) for name, spec in specs.items()}
    root = served.work / "repository"
    references = make_references([specs[model]], served.served.manifest, root, pictures, tensors)
    outcomes = send_load(
        served_target(served.served.manifest, pictures, tensors),
        make_workload({model: 15.0}, seconds=2.0, seed=5, frames=FRAMES),
        references,
        LoadOptions(slo_us={model: 600_000}),
    )
    answered = [outcome for outcome in outcomes if outcome.fate is Fate.ANSWERED]
    assert len(answered) >= 15
    assert all(outcome.matched and outcome.abs_error <= 1e-5 for outcome in answered)


def sized_request(jpegs: list[bytes], sizes: np.ndarray) -> list[triton.InferInput]:
    image = triton.InferInput("jpeg", [len(jpegs), 1], "BYTES")
    image.set_data_from_numpy(np.array([[jpeg] for jpeg in jpegs], dtype=np.object_))
    size = triton.InferInput("size", list(sizes.shape), "INT64")
    size.set_data_from_numpy(sizes)
    return [image, size]


def test_frames_of_one_request_are_answered_together(served: Files) -> None:
    jpegs = [encode_jpeg(picture) for picture in make_pictures(BATCH, seed=8)]
    sizes = np.arange(2 * BATCH, dtype=np.int64).reshape(BATCH, 2)
    with triton.InferenceServerClient(served.served.manifest.entry.grpc_address) as client:
        together = client.infer("sized", sized_request(jpegs, sizes)).as_numpy("scores")
        alone = [
            client.infer("sized", sized_request([jpeg], size[np.newaxis])).as_numpy("scores")
            for jpeg, size in zip(jpegs, sizes, strict=True)
        ]
        np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
        refused = triton.InferenceServerException
        with pytest.raises(
            triton.InferenceServerException, match=r"frame 2 of 4: input jpeg: .* no complete"
        ):
            client.infer("sized", sized_request([*jpegs[:2], b"no image", jpegs[3]], sizes))
        cut_short = [*jpegs[:3], jpegs[3][: len(jpegs[3]) // 2] + jpegs[3][-2:]]
        with pytest.raises(refused, match="frame 3 of 4: "):
            client.infer("sized", sized_request(cut_short, sizes))
        with pytest.raises(refused, match="jpeg, size belong"):
            client.infer("sized", sized_request(jpegs, sizes)[:1])


def test_perf_analyzer_sends_batches(served: Files, tmp_path: Path) -> None:
    manifest = served.served.manifest
    tensors = {"text": make_inputs_of(manifest.model("text").network_inputs, 4, seed=3)}
    target = served_target(manifest, [], {**{m.model: [] for m in manifest.models}, **tensors})
    requests = [target.next_request("text", frame, "0")[1] for frame in range(4)]
    report = run_perf_analyzer(
        model="text",
        address=manifest.entry.grpc_address,
        requests=requests,
        rate_rps=4.0,
        seconds=3.0,
        folder=tmp_path,
        batch=BATCH,
    )
    assert report.throughput_rps > 2.0 * BATCH
