"""Generated pre- and postprocessing models in a real tritonserver, against the functions that they call."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton

from ensembles.detection import Suppression, detect, label_map
from ensembles.graphs import DETECTED_BOXES, DETECTED_CLASSES, DETECTED_SCORES
from ensembles.steps import InputSize, Normalisation, preprocess_frame
from model_repo_generator import config, entry
from model_repo_generator.shims import model_py
from planner.deployment import ModelSpec
from planner.profile import TensorSpec
from tests.live.live_server import LiveServer, running, wait_ready

pytestmark = pytest.mark.live

INPUT = TensorSpec(name="image", dtype="FP32", shape=(3, 6, 10))
LABELS = ("person", "Käfer", "car")
MODELS = ("det_postprocess", "det_preprocess", "seg_postprocess")


def spec(name: str, task: str) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": name,
            "program": {"factory": "nets:net"},
            "input": {"name": "image", "shape": [3, 6, 10]},
            "slo_ms": 100,
            "preprocess": {"kind": "raw"},
            "postprocess": {"task": task, "max_boxes": 4, "min_score": 0.2, "max_overlap": 0.4},
        }
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root = tmp_path_factory.mktemp("steps")
    boxes = TensorSpec(name="boxes", dtype="FP32", shape=(9, 4))
    scores = TensorSpec(name="scores", dtype="FP32", shape=(9, 3))
    pixels = TensorSpec(name="pixels", dtype="FP32", shape=(5, 6, 10))
    detector = entry.entry_models(spec("det", "detection"), (INPUT,), (boxes, scores), LABELS)
    segmenter = entry.entry_models(spec("seg", "segmentation"), (INPUT,), (pixels,), ())
    for model, task, labels in ((detector, "detection", LABELS), (segmenter, "segmentation", ())):
        wanted = spec("any", task)
        assert model.preprocess is not None
        assert model.postprocess is not None
        assert wanted.preprocess is not None
        assert wanted.postprocess is not None
        for step, text, adapter in (
            (
                model.preprocess,
                config.preprocess_config(
                    model.preprocess.name,
                    model.preprocess.inputs,
                    model.preprocess.outputs,
                    entry.preprocess_parameters(wanted.preprocess),
                ),
                "preprocess",
            ),
            (
                model.postprocess,
                config.postprocess_config(
                    model.postprocess.name,
                    model.postprocess.inputs,
                    model.postprocess.outputs,
                    entry.postprocess_parameters(wanted.postprocess, labels),
                ),
                "postprocess",
            ),
        ):
            version = root / "repository" / step.name / "1"
            version.mkdir(parents=True)
            (version / "model.py").write_text(model_py(adapter))
            (version.parent / "config.pbtxt").write_text(text)
            (version.parent / "labels.txt").write_text("\n".join(LABELS) + "\n")
    with running(root / "repository", MODELS, root / "server.log") as live:
        wait_ready(live, MODELS)
        yield live


def infer(server: LiveServer, model: str, **arrays: np.ndarray) -> triton.InferResult:
    tensors = []
    for name, array in arrays.items():
        dtype = "UINT8" if array.dtype == np.uint8 else "FP32"
        tensors.append(triton.InferInput(name, array.shape, dtype).set_data_from_numpy(array))
    with triton.InferenceServerClient(server.grpc) as client:
        return client.infer(model, tensors, client_timeout=20)


def test_boxes_come_back_suppressed_and_labelled(server: LiveServer) -> None:
    random = np.random.default_rng(2)
    corners = random.integers(0, 8, (9, 2))
    boxes = np.concatenate([corners, corners + 5], axis=1).astype(np.float32)
    scores = random.random((9, 3), dtype=np.float32)
    answer = infer(server, "det_postprocess", boxes=boxes[None], scores=scores[None])
    expected = detect(boxes, scores, Suppression(max_boxes=4, min_score=0.2, max_overlap=0.4))
    np.testing.assert_array_equal(answer.as_numpy(DETECTED_BOXES)[0], expected.boxes)
    np.testing.assert_array_equal(answer.as_numpy(DETECTED_SCORES)[0], expected.scores)
    np.testing.assert_array_equal(answer.as_numpy(DETECTED_CLASSES)[0], expected.classes)
    labels = [label.decode() for label in answer.as_numpy("labels")[0]]
    assert labels == [LABELS[index] if index >= 0 else "" for index in expected.classes]


def test_where_there_is_no_box_rows_are_padding(server: LiveServer) -> None:
    answer = infer(
        server,
        "det_postprocess",
        boxes=np.zeros((1, 9, 4), np.float32),
        scores=np.zeros((1, 9, 3), np.float32),
    )
    assert answer.as_numpy(DETECTED_CLASSES).tolist() == [[-1] * 4]
    assert answer.as_numpy("labels").tolist() == [[b""] * 4]


def test_a_label_map_comes_back(server: LiveServer) -> None:
    pixels = np.random.default_rng(3).random((1, 5, 6, 10), dtype=np.float32)
    answer = infer(server, "seg_postprocess", pixels=pixels)
    np.testing.assert_array_equal(answer.as_numpy("label_map"), label_map(pixels))


@pytest.mark.parametrize("size", [(6, 10), (31, 17), (1, 1)])
def test_raw_frames_of_any_size_are_taken(server: LiveServer, size: tuple[int, int]) -> None:
    frame = np.random.default_rng(4).integers(0, 256, (*size, 3), dtype=np.uint8)
    answer = infer(server, "det_preprocess", frame=frame[None])
    wanted = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    expected = preprocess_frame(frame, InputSize(channels=3, height=6, width=10), wanted)
    np.testing.assert_array_equal(answer.as_numpy("image")[0], expected)
