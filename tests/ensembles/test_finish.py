"""From a batch of outputs to a batch of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ensembles.detection import Suppression, detect, label_map
from ensembles.finish import Finisher, Geometry, geometries, read_labels
from ensembles.graphs import frame_input
from ensembles.steps import top_k
from planner.frames import FrameSize
from planner.ingress import FinishRecipe, PrepareRecipe

LABELS = ("person", "Käfer", "car")
RANDOM = np.random.default_rng(2)


def recipe(**changes: Any) -> FinishRecipe:
    fields = {"task": "classification", "inputs": ("logits",), "outputs": (), "top_k": 2}
    return FinishRecipe(**(fields | changes))


def prepare(height: int, width: int) -> PrepareRecipe:
    return PrepareRecipe(
        kind="jpeg",
        frame=frame_input("jpeg"),
        channels=3,
        height=height,
        width=width,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        planned=FrameSize(640, 480, 50_000),
    )


def test_classes_come_best_first_with_scores_and_labels() -> None:
    logits = RANDOM.standard_normal((4, 3), dtype=np.float32)
    answer = Finisher(recipe(), LABELS)({"logits": logits}, ())
    classes, scores = top_k(logits, 2)
    np.testing.assert_array_equal(answer["classes"], classes)
    np.testing.assert_array_equal(answer["scores"], scores)
    assert answer["labels"].tolist() == [[LABELS[index].encode() for index in row] for row in classes]
    assert answer.keys() == {"classes", "scores", "labels"}
    assert Finisher(recipe(raw=True), None)({"logits": logits}, ())["logits"] is logits


def test_boxes_are_in_each_frames_own_pixels() -> None:
    corners = RANDOM.integers(0, 8, (2, 9, 2))
    boxes = np.concatenate([corners, corners + 5], axis=2).astype(np.float32)
    scores = RANDOM.random((2, 9, 3), dtype=np.float32)
    rule: dict[str, Any] = {"max_boxes": 4, "min_score": 0.2, "max_overlap": 0.4}
    finisher = Finisher(recipe(task="detection", inputs=("boxes", "scores"), **rule), LABELS)
    places = geometries([(100, 60), (0, 0)], prepare(height=6, width=10))
    answer = finisher({"boxes": boxes, "scores": scores}, places)
    for index, scale in enumerate((10, 1)):  # the second client prepared by itself
        expected = detect(boxes[index], scores[index], Suppression(**rule))
        np.testing.assert_allclose(answer["detected_boxes"][index], scale * expected.boxes)
        np.testing.assert_array_equal(answer["detected_classes"][index], expected.classes)
        np.testing.assert_array_equal(answer["detected_scores"][index], expected.scores)
    labels = [label.decode() for label in answer["labels"][0]]
    assert labels == [LABELS[number] if number >= 0 else "" for number in answer["detected_classes"][0]]


def test_where_there_is_no_box_rows_are_padding() -> None:
    wanted = recipe(task="detection", inputs=("b", "s"), max_boxes=4, min_score=0.2, max_overlap=0.4)
    empty = {"b": np.zeros((1, 9, 4), np.float32), "s": np.zeros((1, 9, 3), np.float32)}
    answer = Finisher(wanted, LABELS)(empty, ())
    assert answer["detected_classes"].tolist() == [[-1] * 4]
    assert answer["labels"].tolist() == [[b""] * 4]


def test_a_label_map_is_the_best_class_of_each_pixel() -> None:
    scores = RANDOM.random((2, 5, 6, 10), dtype=np.float32)
    answer = Finisher(recipe(task="segmentation", inputs=("pixels",)), None)({"pixels": scores}, ())
    np.testing.assert_array_equal(answer["label_map"], label_map(scores))


def test_geometry_scales_both_ways_apart() -> None:
    (place,) = geometries([(1920, 1080)], prepare(height=640, width=640))
    assert place == Geometry(3.0, 1.6875)
    np.testing.assert_allclose(place.to_frame(np.array([[0, 0, 640, 640]], np.float32)), [[0, 0, 1920, 1080]])
    assert geometries([(1920, 1080)], None) == [Geometry()]


def test_labels_are_the_lines_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "net.txt").write_text("a\n\nKäfer\n", encoding="utf-8")
    assert read_labels(recipe(labels="net.txt"), tmp_path) == ["a", "", "Käfer"]
    assert read_labels(recipe(), tmp_path) is None
