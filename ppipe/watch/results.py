"""Answers as lines of JSON: stream, place, pts, and the answer or why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from ensembles.graphs import DETECTED_SCORES
from ppipe.watch.asking import ShotFate, ShotResult

MOST_VALUES = 10_000
"""Of one tensor in a line; of a larger one its shape and dtype are written."""


class ResultFile:
    """Writes a line for every answer; each is whole when the next begins."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, answer: ShotResult) -> None:
        """Raises OSError."""
        self._file.write(line_of(answer) + "\n")
        self._file.flush()


def line_of(answer: ShotResult) -> str:
    """One line, without its end."""
    shot = answer.shot
    said: dict[str, Any] = {
        "stream": shot.stream,
        "place": shot.place,
        "pts": round(shot.pts_s, 6),
        "age_ms": round(1000 * answer.age_s, 1),
    }
    if answer.outcome is ShotFate.ANSWERED:
        said["answer"] = {name: _plain(array) for name, array in found(answer.outputs).items()}
    else:
        said[answer.outcome.value] = answer.why
    return json.dumps(said, ensure_ascii=False)


def found(outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Of detections the rows that are one: those past the last have score 0."""
    scores = outputs.get(DETECTED_SCORES)
    if scores is None:
        return dict(outputs)
    count = int((scores > 0).sum())
    per_row = {name for name, array in outputs.items() if array.shape[:1] == scores.shape[:1]}
    return {name: array[:count] if name in per_row else array for name, array in outputs.items()}


def _plain(array: npt.NDArray[Any]) -> Any:
    if array.size > MOST_VALUES:
        return {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.dtype == np.object_:
        texts = [each.decode("utf-8", "replace") for each in array.ravel()]
        return np.array(texts, dtype=np.object_).reshape(array.shape).tolist()
    return np.round(array.astype(np.float64), 4).tolist() if array.dtype.kind == "f" else array.tolist()
