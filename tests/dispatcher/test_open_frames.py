"""Frames without an answer: each gets one, whoever comes first, and is counted once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from python_backend.dispatcher.frames.frame import ErrorCode
from python_backend.dispatcher.frames.open_frames import OpenFrames
from python_backend.dispatcher.frames.room import Bounds, Room
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.scheduler.actions import DropReason
from tests.dispatcher.test_driver import Client, manifest


@pytest.fixture
def counts() -> Counts:
    """Of the model of the driver's tests."""
    return Counts(manifest().models[0].served)


@pytest.fixture
def frames(counts: Counts) -> Iterator[OpenFrames]:
    """Of the same model."""
    made = OpenFrames(manifest().models[0], counts, print, Room(Bounds(9, 9)))
    yield made
    made.close()


def test_a_frame_that_was_answered_meanwhile_can_be_dropped(frames: OpenFrames, counts: Counts) -> None:
    """By an attempt that was given up too early, on another thread."""
    client = Client()
    frame = client.frame(1)
    frames.add([frame])
    frames.fail([frame], "boom")
    frames.drop(frame, DropReason.EXPIRED)
    client.wait()
    assert client.answers == {1: [(ErrorCode.INTERNAL, "boom")]}
    assert counts.drops[DropReason.EXPIRED] == 0
    assert frames.all() == []


def test_a_dropped_frame_is_counted_and_told_why(frames: OpenFrames, counts: Counts) -> None:
    client = Client()
    frame = client.frame(1)
    frames.add([frame])
    frames.drop(frame, DropReason.OVERLOAD)
    client.wait()
    ((code, text),) = client.answers[1]
    assert code is ErrorCode.UNAVAILABLE
    assert "reason=overload" in text
    assert counts.drops[DropReason.OVERLOAD] == 1
