"""Cameras on virtual time: when their frames come, and what became of each camera's.

Rules: the same seed gives the same frames; of frames of the same time those of the camera named first come
first. Counting takes memory for every camera and every open frame, not for every frame.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from planner.streams import StreamPolicy


@dataclass(frozen=True)
class Camera:
    """A stream of `fps` frames a second."""

    name: str
    fps: float


@dataclass(frozen=True)
class CameraFrame:
    """When a frame comes, and where it belongs."""

    time_us: int
    stream: str
    place: int


def camera_frames(
    cameras: Sequence[Camera], seconds: float, seed: int, jitter: float = 0.02
) -> Iterator[CameraFrame]:
    """The frames of all cameras below `seconds`, by time. Each camera begins at a phase of its own, and each
    of its gaps differs from the mean by `jitter` of it (standard deviation).
    """
    each = [
        _frames(camera, seconds, np.random.default_rng((seed, number)), jitter)
        for number, camera in enumerate(cameras)
    ]
    return heapq.merge(*each, key=attrgetter("time_us"))


def _frames(camera: Camera, seconds: float, rng: np.random.Generator, jitter: float) -> Iterator[CameraFrame]:
    gap_us = 1e6 / camera.fps
    time_us, place = rng.uniform(0.0, gap_us), 0
    while time_us < seconds * 1e6:
        yield CameraFrame(int(time_us), camera.name, place)
        time_us += gap_us * max(0.1, rng.normal(1.0, jitter))
        place += 1


@dataclass
class CameraCounts:
    """Of one stream. wasted: frames sent to a worker although a newer one had come."""

    offered: int = 0
    in_time: int = 0
    superseded: int = 0
    wasted: int = 0
    newest: int = -1
    last_answered: int = -1


class CameraTotals:
    """What became of the frames that name a stream."""

    def __init__(self) -> None:
        self.streams: dict[str, CameraCounts] = {}
        self.out_of_order = 0
        """Answers sent after that to a later frame of their stream."""
        self._open: dict[int, tuple[str, int]] = {}

    def came(self, request_id: int, stream: str, place: int) -> None:
        """A frame was offered."""
        counts = self.streams.setdefault(stream, CameraCounts())
        counts.offered += 1
        counts.newest = max(counts.newest, place)
        self._open[request_id] = stream, place

    def sent(self, request_ids: Iterable[int]) -> None:
        """A batch was sent."""
        for request_id in request_ids:
            if request_id in self._open:
                stream, place = self._open[request_id]
                self.streams[stream].wasted += int(place < self.streams[stream].newest)

    def answered(self, request_id: int, in_time: bool) -> None:
        """A frame was answered."""
        if request_id not in self._open:
            return
        stream, place = self._open.pop(request_id)
        counts = self.streams[stream]
        counts.in_time += int(in_time)
        self.out_of_order += int(place < counts.last_answered)
        counts.last_answered = max(counts.last_answered, place)

    def dropped(self, request_id: int, superseded: bool) -> None:
        """A frame was answered with an error."""
        if request_id in self._open:
            stream, _ = self._open.pop(request_id)
            self.streams[stream].superseded += int(superseded)

    @property
    def wasted(self) -> int:
        """Frames sent although a newer one of their stream had come."""
        return sum(counts.wasted for counts in self.streams.values())

    def jain(self, policy: StreamPolicy) -> float:
        """Jain's index of goodput over weight: 1 where all streams have the same, 1 / n where one has all."""
        return jain_index([counts.in_time / policy.weight_of(name) for name, counts in self.streams.items()])


def jain_index(shares: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2), after Jain, Chiu and Hawe 1984; 1.0 where there is nothing to share."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
