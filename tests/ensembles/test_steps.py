"""The best classes and their labels, against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensembles.steps import labels_of, top_k


@given(classes=st.integers(1, 30), rows=st.integers(1, 4), seed=st.integers(0, 99), data=st.data())
def test_the_best_classes_are_torchs(classes: int, rows: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, classes))
    logits = np.random.default_rng(seed).standard_normal((rows, classes), dtype=np.float32) * 10
    indices, scores = top_k(logits, k)
    expected = torch.from_numpy(logits).softmax(-1).topk(k, dim=-1)
    np.testing.assert_allclose(scores, expected.values.numpy(), atol=1e-6)
    np.testing.assert_array_equal(np.take_along_axis(logits, indices, -1), np.sort(logits)[:, ::-1][:, :k])
    assert (indices.dtype, scores.dtype) == (np.int32, np.float32)


def test_equal_classes_come_in_order_and_huge_logits_do_not_overflow() -> None:
    indices, scores = top_k(np.array([[1e30, 1e30, -1e30]], dtype=np.float32), 2)
    assert indices.tolist() == [[0, 1]]
    assert scores.tolist() == [[0.5, 0.5]]
    with pytest.raises(ValueError, match="top 4 of 3 classes"):
        top_k(np.zeros((1, 3), dtype=np.float32), 4)


def test_labels_are_utf8_in_the_shape_of_the_classes() -> None:
    named = labels_of(np.array([[1, 0]], dtype=np.int32), ["Käfer", "cat"])
    assert named.tolist() == [[b"cat", "Käfer".encode()]]
    assert named.dtype == np.object_
