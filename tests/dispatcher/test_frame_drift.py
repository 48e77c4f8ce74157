"""Frames that are not as large as they were planned are told, now and then."""

from __future__ import annotations

import pytest

from planner.frames import NO_COST
from planner.serving import ServedEntry
from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.metrics.frame_drift import FrameDrift
from python_backend.wire.ragged import FrameInfo, FrameKind

MINUTE_US = 60_000_000


PLANNED = ServedEntry("e.up", "e.down", frame_bytes=1_000, frame_pixels=100, prepare=NO_COST, hosts=())


def frames(count: int, size: int, width: int = 10) -> list[Frame]:
    info = FrameInfo(FrameKind.ENCODED if width else FrameKind.TENSOR, size, width, 10 if width else 0)
    made = [
        Frame(number, memoryview(b""), 0, 0, lambda outputs: None, lambda code, text: None, info=info)
        for number in range(count)
    ]
    for frame in made:
        frame.claim()
    return made


def test_a_lasting_deviation_is_told_once_a_minute() -> None:
    said: list[str] = []
    drift = FrameDrift("net", PLANNED, said.append)
    drift.saw(frames(255, 2_000), 0)
    assert not drift.ratios
    drift.saw(frames(1, 2_000), 0)
    assert drift.ratios == {"bytes": 2.0, "pixels": 1.0}
    (line,) = said
    assert "frames have 2.00 times the planned bytes: state preprocess.frame" in line
    drift.saw(frames(256, 2_000), MINUTE_US - 1)
    assert len(said) == 1
    drift.saw(frames(256, 1_000, width=20), MINUTE_US)
    assert "2.00 times the planned pixels" in said[1]


@pytest.mark.parametrize(("size", "width"), [(1_200, 10), (800, 10), (9_000, 0)])
def test_what_is_near_the_plan_or_a_tensor_is_not_told(size: int, width: int) -> None:
    said: list[str] = []
    FrameDrift("net", PLANNED, said.append).saw(frames(300, size, width), 0)
    assert not said
