"""Postprocessing of classifiers: pure functions on numpy arrays.

The stages' adapters call these, and so does whoever wants to compare a served answer with a local one; for
that, decoding is found here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ensembles.prepare.decoding import decode
from ensembles.prepare.faults import FrameFault

__all__ = ["FrameFault", "decode", "labels_of", "softmax", "top_k"]

Floats = npt.NDArray[np.floating[Any]]


def softmax(logits: Floats) -> npt.NDArray[np.float32]:
    """Over the last axis, in float32 (float16 logits included)."""
    shifted = logits.astype(np.float32) - logits.max(axis=-1, keepdims=True).astype(np.float32)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def top_k(logits: Floats, k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The k best classes of each row, best first, and their softmax scores. Ties: the lower index first."""
    if k > logits.shape[-1]:
        raise ValueError(f"top {k} of {logits.shape[-1]} classes")
    best = np.argsort(-logits.astype(np.float32), axis=-1, kind="stable")[..., :k]
    scores = np.take_along_axis(softmax(logits), best, axis=-1)
    return best.astype(np.int32), scores


def labels_of(classes: npt.NDArray[np.int32], labels: Sequence[str]) -> npt.NDArray[np.object_]:
    """UTF-8 labels of classes, in the same shape."""
    flat = [labels[index].encode() for index in classes.ravel()]
    return np.array(flat, dtype=np.object_).reshape(classes.shape)
