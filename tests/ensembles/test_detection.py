"""Non-maximum suppression against a plain reading of its rule; label maps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ensembles.detection import Suppression, detect, label_map, overlaps


def reference(boxes: np.ndarray, scores: np.ndarray, rule: Suppression) -> list[int]:
    """Candidates by falling score; each is kept unless a kept one of its class covers it."""
    best = scores.max(axis=1)
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: (-best[i], i)):
        rivals = [other for other in kept if scores[other].argmax() == scores[index].argmax()]
        covered = any(iou(boxes[index], boxes[other]) > rule.max_overlap for other in rivals)
        if best[index] >= rule.min_score and not covered and len(kept) < rule.max_boxes:
            kept.append(index)
    return kept


def iou(one: np.ndarray, other: np.ndarray) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


@given(
    count=st.integers(1, 30),
    classes=st.integers(1, 4),
    max_boxes=st.integers(1, 12),
    max_overlap=st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    seed=st.integers(0, 999),
)
def test_it_keeps_what_the_rule_keeps(
    count: int, classes: int, max_boxes: int, max_overlap: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 20, (count, 2))
    boxes = np.concatenate([corners, corners + random.integers(1, 12, (count, 2))], axis=1).astype(np.float32)
    scores = random.random((count, classes), dtype=np.float32)
    rule = Suppression(max_boxes=max_boxes, min_score=0.3, max_overlap=max_overlap)
    kept = reference(boxes, scores, rule)
    found = detect(boxes, scores, rule)
    np.testing.assert_array_equal(found.boxes[: len(kept)], boxes[kept])
    np.testing.assert_array_equal(found.scores[: len(kept)], scores[kept].max(axis=1))
    np.testing.assert_array_equal(
        found.classes, [*scores[kept].argmax(axis=1), *[-1] * (max_boxes - len(kept))]
    )
    assert not found.scores[len(kept) :].any()


def test_empty_boxes_overlap_nothing() -> None:
    empty = np.zeros((2, 4), dtype=np.float32)
    assert overlaps(empty[0], empty).tolist() == [0.0, 0.0]


def test_a_label_map_is_the_best_class_of_each_pixel() -> None:
    scores = np.random.default_rng(1).random((2, 5, 3, 4), dtype=np.float32)
    labels = label_map(scores)
    assert (labels.dtype, labels.shape) == (np.uint8, (2, 3, 4))
    assert labels[1, 2, 3] == scores[1, :, 2, 3].argmax()
