"""How many frames may be open at once: more than can be served in time only fill the memory that others need.

Rules
- A frame that finds no room is refused at once, with reason=overload. Nobody who has room is affected.
- Bytes: half of what /dev/shm has free when the dispatcher starts, or a quarter of the memory that is free
  then (its container's, where it is in one), whichever is less; divided by the dispatchers of the entry.
  Triton holds a frame twice: in /dev/shm and, until it is answered, as it came.
- Frames: four times what the plan can serve within the longest time that a caller may wait, SMALLEST_FRAMES
  at least.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from planner.serving import ServedModel
from python_backend.dispatcher.frames.frame import Frame
from python_backend.wire.shm.file import SHM

SMALLEST_FRAMES = 512
_SPARE = 4
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Bounds:
    """Of the frames that are open at once."""

    frames: int
    bytes: int


class Room:
    """See the module. Thread-safe."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._frames = 0
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def frames(self) -> int:
        """That are open."""
        return self._frames

    @property
    def bytes(self) -> int:
        """Of the open frames."""
        return self._bytes

    def admit(self, frames: Iterable[Frame]) -> tuple[list[Frame], list[Frame]]:
        """Those that there is room for, which take it, and the others."""
        admitted: list[Frame] = []
        refused: list[Frame] = []
        with self._lock:
            for frame in frames:
                size = len(frame.data)
                if self._frames < self.bounds.frames and self._bytes + size <= self.bounds.bytes:
                    self._frames += 1
                    self._bytes += size
                    admitted.append(frame)
                else:
                    refused.append(frame)
        return admitted, refused

    def leave(self, frames: Iterable[Frame]) -> None:
        """They have been answered."""
        with self._lock:
            for frame in frames:
                self._frames -= 1
                self._bytes -= len(frame.data)

    def text(self, model: str) -> str:
        """What a client reads whose frame was refused."""
        return (
            f"{model}: {self._frames} frames of {self._bytes >> 20} MiB are open, at most "
            f"{self.bounds.frames} of {self.bounds.bytes >> 20} MiB may be: reason=overload"
        )


def bounds_of(served: ServedModel, longest_us: int, dispatchers: int) -> Bounds:
    """Of one of so many dispatchers of this host, as its memory is now."""
    frames = round(_SPARE * frames_per_us(served) * longest_us)
    room = min(_shm_free() // 2, memory_free() // 4) // max(1, dispatchers)
    return Bounds(max(SMALLEST_FRAMES, frames), room)


def frames_per_us(served: ServedModel) -> float:
    """What all pipelines serve together, each as much as its slowest stage."""
    return sum(
        min(
            len(stage.workers) * max((size + 1) / max(1, us) for size, us in enumerate(stage.latency_us))
            for stage in pipeline.stages
        )
        for pipeline in served.pipelines
    )


def memory_free(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Bytes that can be taken: the host's, or this container's where that is less."""
    available = next(
        int(line.split()[1]) << 10 for line in meminfo.read_text().splitlines() if "MemAvailable" in line
    )
    with contextlib.suppress(OSError, ValueError):  # no cgroup of version 2, or 'max'
        limit, used = ((cgroup / name).read_text() for name in ("memory.max", "memory.current"))
        available = min(available, max(0, int(limit) - int(used)))
    return available


def _shm_free() -> int:
    status = os.statvfs(SHM)
    return status.f_bavail * status.f_frsize
