"""Lines of text in a detector's map: where they are, how sure they are, and what is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ensembles.text import TextRule, text_boxes

RULE = TextRule(threshold=0.3, widening=1.5, min_score=0.6, max_boxes=4)


def drawn(*lines: tuple[tuple[int, int, int, int], float]) -> np.ndarray:
    plane = np.zeros((1, 60, 100), np.float32)
    for (left, top, right, bottom), score in lines:
        plane[0, top:bottom, left:right] = score
    return plane


def test_a_line_is_widened_by_what_its_middle_was_shrunk_by() -> None:
    found = text_boxes(drawn(((20, 20, 61, 31), 0.9)), RULE)
    distance = 40 * 10 * 1.5 / (2 * (40 + 10))
    np.testing.assert_allclose(
        found.boxes[0], [20 - distance, 20 - distance, 60 + distance, 30 + distance], atol=1e-4
    )
    assert found.scores.tolist() == [pytest.approx(0.9), 0, 0, 0]
    assert found.classes.tolist() == [0, -1, -1, -1]


def test_boxes_end_at_the_maps_edge_and_the_surest_come_first() -> None:
    found = text_boxes(drawn(((0, 0, 30, 10), 0.7), ((60, 40, 100, 60), 0.95)), RULE)
    assert found.scores[:2].tolist() == pytest.approx([0.95, 0.7])
    assert found.boxes[0, 2:].tolist() == [100, 60]
    assert found.boxes[1, :2].tolist() == [0, 0]


def test_thin_and_unsure_regions_are_no_text() -> None:
    found = text_boxes(drawn(((10, 10, 60, 12), 0.9), ((10, 30, 60, 45), 0.5)), RULE)
    assert not found.scores.any()


def test_a_turned_line_is_inside_of_its_box() -> None:
    plane = np.zeros((60, 100), np.float32)
    corners = cv2.boxPoints(((50, 30), (50, 8), 20)).astype(np.int32)
    cv2.fillPoly(plane, [corners], 1.0)
    (left, top, right, bottom) = text_boxes(plane[np.newaxis], RULE).boxes[0]
    assert [left < corners[:, 0].min(), top < corners[:, 1].min()] == [True, True]
    assert [right > corners[:, 0].max(), bottom > corners[:, 1].max()] == [True, True]
