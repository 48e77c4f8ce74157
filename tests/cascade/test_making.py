"""Frames for the next model: crops of boxes, and what functions give, right or wrong."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simplejpeg

from ensembles.graphs import DETECTED_BOXES, DETECTED_CLASSES
from ensembles.prepare.decoding import decode
from planner.cascades.served import ServedMember
from planner.ingress import FrameLimits, PrepareRecipe, frame_input
from planner.manifest import ModelEntry
from python_backend.cascade.crops import NoCrop, crop
from python_backend.cascade.frames import Given, SentFrame
from python_backend.cascade.making import Maker, NoStep
from tests.cascade.test_parent import ENTRIES

RECIPE = PrepareRecipe(
    kind="jpeg",
    frame=frame_input("jpeg"),
    channels=3,
    height=8,
    width=8,
    mean=(0, 0, 0),
    std=(1, 1, 1),
    planned=None,  # type: ignore[arg-type]
    limits=FrameLimits(),
)
JPEG = dataclasses.replace(ENTRIES["kinds"], prepare=RECIPE)
RAW = dataclasses.replace(JPEG, prepare=dataclasses.replace(RECIPE, kind="raw", frame=frame_input("raw")))
PICTURE = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)


def sent(picture: np.ndarray = PICTURE) -> SentFrame:
    image = np.empty((1, 1), np.object_)
    image[0, 0] = simplejpeg.encode_jpeg(picture, 95, "RGB", "444")
    return SentFrame(JPEG, {"jpeg": image})


def found(*boxes: tuple[float, float, float, float]) -> dict[str, Any]:
    """A detector's answer, with an empty row at its end."""
    rows = [*boxes, (0, 0, 0, 0)]
    classes = [1] * len(boxes) + [-1]
    return {DETECTED_BOXES: np.array(rows, np.float32), DETECTED_CLASSES: np.array(classes, np.int32)}


def maker(make: str, entry: ModelEntry = RAW, most: int = 5) -> Maker:
    return Maker(ServedMember("kinds", 1, "detector", make, most), entry)


def pixels(given: Given) -> np.ndarray:
    (array,) = given.values()
    return array[0] if array.dtype == np.uint8 else decode(array[0, 0])


def test_crops_are_the_frames_own_pixels() -> None:
    frame = sent()
    made = maker("crops").make(frame, found((10, 5, 30, 25), (50.4, 30.2, 70, 50)))
    whole = frame.picture()
    assert made.faults == ()
    assert [row for row, _ in made.frames] == [0, 1]
    assert np.array_equal(pixels(made.frames[0][1]), whole[5:25, 10:30])
    assert np.array_equal(pixels(made.frames[1][1]), whole[30:, 50:])


def test_a_model_that_takes_files_gets_files() -> None:
    frame = sent(np.full((40, 60, 3), (200, 30, 90), np.uint8))
    made = maker("crops", JPEG).make(frame, found((10, 5, 30, 25)))
    shown = pixels(made.frames[0][1])
    assert shown.shape == (20, 20, 3)
    assert np.abs(shown.astype(int) - frame.picture()[5:25, 10:30]).max() < 8


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((100, 5, 130, 25), r"\[100, 5, 130, 25\] is outside of the 60 x 40 frame"),
        ((-9, -9, -1, -1), "outside of the 60 x 40 frame"),
        ((30, 5, 10, 25), "no area"),
        ((float("nan"), 0, 1, 1), "edges that are no numbers"),
    ],
)
def test_a_box_of_which_there_is_no_crop(box: tuple[float, ...], said: str) -> None:
    with pytest.raises(NoCrop, match=said):
        crop(PICTURE, np.array(box))
    made = maker("crops").make(sent(), found(box, (0, 0, 9, 9)))  # type: ignore[arg-type]
    assert len(made.faults) == 1
    assert [row for row, _ in made.frames] == [1], "the others go on"


def test_frames_without_boxes_are_not_decoded() -> None:
    broken = np.empty((1, 1), np.object_)
    broken[0, 0] = b"no image"
    assert maker("crops").make(SentFrame(JPEG, {"jpeg": broken}), found()).frames == ()
    made = maker("crops").make(SentFrame(JPEG, {"jpeg": broken}), found((1, 1, 5, 5)))
    assert "no complete JPEG" in made.faults[0]


def test_no_more_than_most_are_taken() -> None:
    made = maker("crops", most=2).make(sent(), found(*[(0, 0, 9, 9)] * 4))
    assert len(made.frames) == 2
    assert made.faults == ("more than 2 frames were made; those after are left out (most)",)


def endless(frame: SentFrame, outputs: Any) -> Iterator[Any]:
    return (np.zeros((4,), np.float32) for _ in itertools.count())


def raises(frame: SentFrame, outputs: Any) -> list[Any]:
    raise SystemExit("as a script would")


def mixed(frame: SentFrame, outputs: Any) -> list[Any]:
    good = np.zeros((4,), np.float32)
    return [good, "text", np.zeros((5,), np.float32), (9, good), {"frame": good}, (2**40, good)]


NOT_CALLABLE = 3


def test_functions_that_go_wrong_raise_nothing() -> None:
    plain = ENTRIES["kinds"]
    assert len(maker(f"{__name__}:endless", plain).make(sent(), {}).frames) == 5
    assert maker(f"{__name__}:raises", plain).make(sent(), {}).faults == (
        f"{__name__}:raises: SystemExit: as a script would",
    )
    made = maker(f"{__name__}:mixed", plain, most=6).make(sent(), {})
    assert [row for row, _ in made.frames] == [0, 9, 4]
    assert "row 1: " in made.faults[0]
    assert "a value of type str; kinds takes its network's input frame FP32 [4]" in made.faults[0]
    assert "an array float32 [5]" in made.faults[1]
    assert made.faults[2] == f"row {2**40}: expected a row from 0 to {2**31 - 1}"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no.such:thing", "No module named 'no'"),
        (f"{__name__}:nothing", "has no attribute 'nothing'"),
        (f"{__name__}:NOT_CALLABLE", "a value of type int, which cannot be called"),
    ],
)
def test_what_cannot_be_called_is_refused_at_the_start(path: str, said: str) -> None:
    with pytest.raises(NoStep, match=said):
        maker(path)
