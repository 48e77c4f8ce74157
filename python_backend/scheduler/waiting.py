"""The queue of frames that wait: by priority, then deadline, then arrival.

One `PriorityLevel` per priority, highest first. It is a list sorted by (deadline, arrival), with an offset to
its first live entry so that taking from the head does not move the rest.
"""

from __future__ import annotations

from typing import Final

from python_backend.scheduler.batches import Request
from python_backend.scheduler.shedding import Shedding

_COMPACT_AT: Final = 256
"""Dead entries at the head of a level before they are cut off."""


class PriorityLevel:
    """The waiting frames of one priority, by (deadline, sequence)."""

    __slots__ = ("came", "frames", "head", "priority", "shed", "shedding")

    def __init__(self, priority: int) -> None:
        self.priority: int = priority
        self.frames: list[Request] = []
        self.head: int = 0
        self.came: int = 0
        """Frames that have waited here so far, first attempts alone."""
        self.shed: int = 0
        """Of these, how many were dropped for overload."""
        self.shedding: Shedding = Shedding()

    def size(self) -> int:
        """How many frames wait here."""
        return len(self.frames) - self.head

    def first_from(self, deadline_us: int) -> int:
        """Index into `frames` of the most urgent frame whose deadline is at least `deadline_us`."""
        frames = self.frames
        low = self.head
        high = len(frames)
        if low == high or frames[low].deadline_us >= deadline_us:
            return low
        while low < high:
            middle = (low + high) // 2
            if frames[middle].deadline_us < deadline_us:
                low = middle + 1
            else:
                high = middle
        return low

    def insert(self, request: Request) -> None:
        """Put a frame in its place; at the end in constant time, which is where arrivals belong."""
        frames = self.frames
        deadline_us = request.deadline_us
        sequence = request.sequence
        index = len(frames)
        if index == self.head or _before(frames[index - 1], deadline_us, sequence):
            frames.append(request)
            return
        low = self.head
        while low < index:
            middle = (low + index) // 2
            if _before(frames[middle], deadline_us, sequence):
                low = middle + 1
            else:
                index = middle
        frames.insert(low, request)

    def take(self, index: int, count: int) -> list[Request]:
        """Remove and return `count` frames from index `index` on."""
        frames = self.frames
        end = index + count
        taken = frames[index:end]
        if index != self.head:
            del frames[index:end]
            return taken
        self.head = end
        if end == len(frames):
            frames.clear()
            self.head = 0
        elif end >= _COMPACT_AT:
            del frames[:end]
            self.head = 0
        return taken

    def remove(self, request: Request) -> None:
        """Take one frame out, wherever it is. Raises ValueError when it is not here."""
        index = self.first_from(request.deadline_us)
        while index < len(self.frames):
            if self.frames[index] is request:
                self.take(index, 1)
                return
            index += 1
        raise ValueError(f"request {request.request_id} does not wait at priority {self.priority}")


def _before(request: Request, deadline_us: int, sequence: int) -> bool:
    if request.deadline_us != deadline_us:
        return request.deadline_us < deadline_us
    return request.sequence <= sequence


class WaitingQueue:
    """All waiting frames, in levels of falling priority."""

    __slots__ = ("count", "levels")

    def __init__(self) -> None:
        self.levels: list[PriorityLevel] = []
        self.count: int = 0

    def level(self, priority: int) -> PriorityLevel:
        """The level of one priority, made when it is new."""
        index = 0
        for level in self.levels:
            if level.priority == priority:
                return level
            if level.priority > priority:
                index += 1
        made = PriorityLevel(priority)
        self.levels.insert(index, made)
        return made

    def insert(self, request: Request) -> None:
        """Put a frame in its place."""
        level = self.level(request.priority)
        level.insert(request)
        self.count += 1
        if request.attempts == 0:
            level.came += 1

    def take(self, level: PriorityLevel, index: int, count: int) -> list[Request]:
        """Remove and return `count` frames of `level` from index `index` on."""
        self.count -= count
        return level.take(index, count)

    def remove(self, request: Request) -> None:
        """Take one frame out, wherever it is."""
        self.level(request.priority).remove(request)
        self.count -= 1

    def head(self) -> Request | None:
        """The most urgent frame of the highest priority."""
        for level in self.levels:
            if level.head < len(level.frames):
                return level.frames[level.head]
        return None

    def all(self) -> list[Request]:
        """Every waiting frame in order."""
        return [request for level in self.levels for request in level.frames[level.head :]]
