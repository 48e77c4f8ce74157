"""ONNX networks on real tritonservers: PP-OCR's text detection in two stages, and networks of two inputs, of
both kinds, one of them with frames to prepare. Every answer is the unsplit network's, run by plain
onnxruntime or torch. Requests of several frames are answered together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import yaml
from PIL import Image, ImageDraw, ImageFont

from ensembles.detection import overlaps
from planner.deployment import beside_the_picture, load_deployment
from ppipe.bench.frames import encode_jpeg, make_inputs_of, make_pictures
from ppipe.bench.loadgen import LoadOptions, send_load
from ppipe.bench.outcome import Fate
from ppipe.bench.perf_analyzer import run_perf_analyzer
from ppipe.bench.reference import make_references
from ppipe.bench.target import public_request, served_target
from ppipe.bench.workload import make_workload
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from tests.onnx import files

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

FRAMES = 6
BATCH = 4
EXAMPLE = Path(__file__).parents[2] / "ensembles" / "examples" / "text-detection.yaml"
OTHERS = """
- name: sized
  inputs:
    - {name: size, dtype: INT64, shape: [2]}
    - {name: image, shape: [3, 16, 16]}
  preprocess: {kind: jpeg, input: image, frame: {width: 320, height: 240, bytes: 20000}}
  slo_ms: 600
  batch_sizes: [1, 2, 4]
  blocks: 2
- name: pair
  program: {factory: "tests.profiling.nets:TwoInputs"}
  inputs:
    - {name: image, shape: [3, 8, 8]}
    - {name: size, dtype: INT64, shape: [2]}
  slo_ms: 600
  batch_sizes: [1, 2]
  blocks: 2
"""
PATIENCE_US = 20_000_000
"""Asked of the dispatcher, which cuts it to five SLOs."""
WORDS = {"TRITON": (40, 40), "PIPELINE": (330, 200)}
"""Words to draw, and the left upper corners of their boxes in a picture of 640 x 320."""


@dataclass
class Files:
    deployment_file: Path
    work: Path
    served: ServedDeployment


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    folder = tmp_path_factory.mktemp("files")
    path = folder / "deployment.yaml"
    plain = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    plain["cluster"]["base_port"] = free_base(first=25_000, count=40)
    plain["models"][0]["program"] = {"onnx": str(files.ocr_file("ch_PP-OCRv4_det_infer.onnx"))}
    sized, pair = yaml.safe_load(OTHERS)
    sized["program"] = {"onnx": str(files.saved(files.sized(), folder / "sized.onnx"))}
    plain["models"] += [sized, pair]
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
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
    first, last = pipeline
    assert (first.first_block, first.past_block) == (0, last.first_block), "of one list of blocks"
    root = served.work / "repository"
    assert {path.suffix for path in (root / first.program).parent.glob("text.*.b*")} == {".onnx"}


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
        make_workload({model: 10.0}, seconds=2.0, seed=5, frames=FRAMES),
        references,
        LoadOptions(slo_us={model: 900_000}),
    )
    answered = [outcome for outcome in outcomes if outcome.fate is Fate.ANSWERED]
    assert len(answered) >= 10
    assert all(outcome.matched and outcome.abs_error <= 1e-5 for outcome in answered)


def picture_of_words() -> tuple[np.ndarray, dict[str, tuple[int, int, int, int]]]:
    """A white picture with words, and the box of each."""
    image = Image.new("RGB", (640, 320), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=48)
    boxes = {}
    for word, corner in WORDS.items():
        draw.text(corner, word, fill="black", font=font)
        boxes[word] = draw.textbbox(corner, word, font=font)
    return np.asarray(image), boxes


def test_the_answer_has_a_box_for_each_word_that_was_drawn(served: Files) -> None:
    picture, words = picture_of_words()
    frame = triton.InferInput("jpeg", [1, 1], "BYTES")
    frame.set_data_from_numpy(np.array([[encode_jpeg(picture)]], dtype=np.object_))
    with triton.InferenceServerClient(served.served.manifest.entry.grpc_address) as client:
        answer = client.infer("text", [frame], timeout=PATIENCE_US)
    scores = answer.as_numpy("detected_scores")[0]
    boxes = answer.as_numpy("detected_boxes")[0][scores > 0]
    assert len(boxes) == len(words)
    for word in words.values():
        best = max(float(overlaps(np.array(word, np.float64), box[np.newaxis])[0]) for box in boxes)
        assert best > 0.5, (word, boxes)


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
        together = client.infer("sized", sized_request(jpegs, sizes), timeout=PATIENCE_US).as_numpy("scores")
        alone = [
            client.infer("sized", sized_request([jpeg], size[np.newaxis]), timeout=PATIENCE_US).as_numpy(
                "scores"
            )
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
        with pytest.raises(refused, match="expected the inputs jpeg, size"):
            client.infer("sized", sized_request(jpegs, sizes)[:1])


def test_perf_analyzer_sends_batches(served: Files, tmp_path: Path) -> None:
    manifest = served.served.manifest
    pictures = make_pictures(BATCH, seed=3, width=640, height=320)
    requests = [public_request(manifest.model("text"), picture) for picture in pictures]
    report = run_perf_analyzer(
        model="text",
        address=manifest.entry.grpc_address,
        requests=requests,
        rate_rps=2.0,
        seconds=3.0,
        folder=tmp_path,
        batch=BATCH,
    )
    assert report.throughput_rps > BATCH
