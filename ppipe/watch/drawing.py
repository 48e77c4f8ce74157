"""What a model answered, drawn into the picture that it was asked about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ensembles.cascade_answer import ANSWERED, OF, ROW, joined
from ensembles.graphs import (
    CLASSES,
    DETECTED_BOXES,
    DETECTED_CLASSES,
    DETECTED_SCORES,
    LABEL_MAP,
    LABELS,
    READ_TEXT,
    SCORES,
)
from ppipe.watch.reading import Pixels
from ppipe.watch.results import found

COLOURS = ((78, 121, 167), (242, 142, 43), (89, 161, 79), (225, 87, 89), (176, 122, 161), (118, 183, 178))
_MOST_LINES = 3
"""Of a classifier's answer."""
_MAP_SHARE = 0.4
"""How much of a label map's colour covers the picture."""


def annotated(pixels: Pixels, outputs: Mapping[str, npt.NDArray[Any]]) -> Pixels:
    """A copy with boxes and labels, classes, or label map; other outputs are not drawn."""
    image = np.ascontiguousarray(pixels).copy()
    outputs = found(outputs)
    if LABEL_MAP in outputs:
        image = _with_map(image, outputs[LABEL_MAP])
    scale = max(0.4, image.shape[1] / 1600)
    if DETECTED_BOXES in outputs:
        for box, text, colour in _boxes(outputs):
            left, top, right, bottom = (round(float(edge)) for edge in box)
            cv2.rectangle(image, (left, top), (right, bottom), colour, max(1, round(2 * scale)))
            _write(image, text, left, max(round(20 * scale), top - 4), scale, colour)
    elif CLASSES in outputs:
        for number, text in enumerate(_classes(outputs)):
            _write(image, text, 8, round(30 * scale * (number + 1)), scale, COLOURS[0])
    return image


def _boxes(outputs: Mapping[str, npt.NDArray[Any]]) -> Iterator[tuple[Any, str, tuple[int, int, int]]]:
    labels = outputs.get(LABELS)
    later = said_of_rows(outputs)
    rows = zip(outputs[DETECTED_BOXES], outputs[DETECTED_SCORES], outputs[DETECTED_CLASSES], strict=True)
    for number, (box, score, kind) in enumerate(rows):
        name = str(kind) if labels is None else labels[number].decode("utf-8", "replace")
        yield box, later.get(number, f"{name} {score:.2f}"), COLOURS[int(kind) % len(COLOURS)]


def said_of_rows(outputs: Mapping[str, npt.NDArray[Any]]) -> dict[int, str]:
    """What later members of a cascade said of the crops of boxes: texts that were read, best labels."""
    said: dict[int, str] = {}
    for name, array in outputs.items():
        model, _, output = name.rpartition(".")
        of = outputs.get(joined(model, OF))
        if output not in (READ_TEXT, LABELS, CLASSES) or of is None or of.any():
            continue
        if output == CLASSES and joined(model, LABELS) in outputs:
            continue
        rows, answered = outputs[joined(model, ROW)], outputs[joined(model, ANSWERED)]
        for number, row in enumerate(rows.tolist()):
            if answered[number]:
                best = array[number].reshape(-1)[0]
                text = best.decode("utf-8", "replace") if isinstance(best, bytes) else f"class {best}"
                said[row] = f"{said[row]}, {text}" if row in said else text
    return said


def _classes(outputs: Mapping[str, npt.NDArray[Any]]) -> Iterator[str]:
    labels = outputs.get(LABELS)
    for number, (kind, score) in enumerate(zip(outputs[CLASSES], outputs[SCORES], strict=True)):
        if number == _MOST_LINES:
            return
        name = f"class {kind}" if labels is None else labels[number].decode("utf-8", "replace")
        yield f"{name} {score:.2f}"


def _with_map(image: Pixels, labels: npt.NDArray[Any]) -> Pixels:
    palette = np.array(COLOURS, np.uint8)[labels % len(COLOURS)]
    sized = cv2.resize(palette, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.addWeighted(image, 1 - _MAP_SHARE, sized, _MAP_SHARE, 0), dtype=np.uint8)


def _write(image: Pixels, text: str, x: int, y: int, scale: float, colour: tuple[int, int, int]) -> None:
    """Legible on any ground: dark below, colour above. OpenCV's letters are ASCII's."""
    shown = text.encode("ascii", "replace").decode()
    for ink, width in (((0, 0, 0), 3), (colour, 1)):
        cv2.putText(image, shown, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, width, cv2.LINE_AA)
