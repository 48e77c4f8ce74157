"""How many frames may be open at once: more than can be served in time only fill the memory that others need.

Rules
- A frame that finds no room is refused at once, with reason=overload. Nobody who has room is affected.
- Bytes: half of what /dev/shm has free when the dispatcher starts, or a quarter of the memory that is free
  then (its container's, where it is in one), whichever is less; divided by the dispatchers of the entry.
  Triton holds a frame twice: in /dev/shm and, until it is answered, as it came.
- Frames: four times what the plan can serve within the longest time that a caller may wait, SMALLEST_FRAMES
  at least. By the workers of all entries: frames that are passed on to another one stay open here.
- Patient frames, with well more time than frames have by plan (DeploymentManifest.time_us), may be as many
  as the plan can serve within the longest time, half of SMALLEST_FRAMES at least: so they leave room for the
  others, which go before them. Fewer as others come and while patient frames are given up (frames.patient).
- It is crowded while more frames are open than the plan serves within an SLO, LEAST_CROWD at least, or too
  many are given up (frames.given_up), and a moment after.
- Then, and as soon as half as many are open for more than one caller, frames have a rank (Frame.rank), and
  those of a higher one go after all others: 0 for callers who send no more than they usually do
  (frames.usual), 1 for others who have no more frames open than callers have on average, LAST_RANK for the
  rest; 0 where the front names nobody. Half, or the first frames of a flood would stand before those of who
  came before it. Patient frames are nobody's custom: they take what others leave.
- Of those that go after others as many may be open as make it crowded; more would come too late, and giving
  one up costs more than refusing it. A caller who has all open frames himself is not held to that.
- Those whom the front knows keep rank 0, and while they have frames open all strangers come after them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from planner.serving import ServedModel
from python_backend.dispatcher.frames.frame import LAST_RANK, Frame
from python_backend.dispatcher.frames.given_up import GivenUp
from python_backend.dispatcher.frames.patient import PatientRoom
from python_backend.dispatcher.frames.usual import Usual
from python_backend.wire.clock import NEVER
from python_backend.wire.parameters.caller import is_known
from python_backend.wire.shm.file import SHM

SMALLEST_FRAMES = 512
_PATIENT_TIMES = 1.5
"""A frame with so many times what frames have by plan is patient."""
_SPARE = 4
LEAST_CROWD = 4
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Bounds:
    """Of the frames that are open at once. `patient_frames`: of those that have more than `patient_us`, and
    at most `longest_us`. `crowd_frames`: of all, beyond which it is crowded.
    """

    frames: int
    bytes: int
    patient_frames: int = NEVER
    patient_us: int = NEVER
    longest_us: int = NEVER
    crowd_frames: int = NEVER


class Room:
    """See the module. Thread-safe."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._frames = 0
        self._bytes = 0
        self._patient = 0
        self._patient_room = PatientRoom()
        self._by_caller: dict[str, int] = {}
        self._named = 0
        self._known = 0
        """Open frames by caller, of all callers that are named, and of those that are known."""
        self._usual = Usual()
        self._given_up = GivenUp()
        self._behind = 0
        """Open frames of a rank above 0."""
        self.crowding = 0
        """Frames that came so far and went after others, for who had sent them."""
        self._lock = threading.Lock()

    @property
    def frames(self) -> int:
        """That are open."""
        return self._frames

    @property
    def bytes(self) -> int:
        """Of the open frames."""
        return self._bytes

    @property
    def callers(self) -> int:
        """That are named, and have frames open."""
        return len(self._by_caller)

    def is_full(self, time_us: int, coming: int, now_us: int) -> bool:
        """Whether a frame that has so much time would find no room, behind so many that are about to come.
        How many of those are patient is not known here: `admit` looks.
        """
        bounds = self.bounds
        if self._frames + coming >= bounds.frames or self._bytes >= bounds.bytes:
            return True
        return time_us > bounds.patient_us and self._patient >= self._most_patient(now_us)

    @property
    def is_full_behind(self) -> bool:
        """Whether no more frames may go after others."""
        return self._behind >= self.bounds.crowd_frames

    def crowds_out(self, caller: str, now_us: int) -> bool:
        """Whether a frame of this caller would have to go after others, while no more may."""
        if not caller or is_known(caller):
            return False
        with self._lock:
            if not self.is_full_behind or self._by_caller.get(caller) == self._frames:
                return False
            return not self._usual.would_keep(caller, now_us)

    def admit(self, frames: Iterable[Frame]) -> tuple[list[Frame], list[Frame]]:
        """Those that there is room for, which take it, and the others."""
        admitted: list[Frame] = []
        refused: list[Frame] = []
        with self._lock:
            for frame in frames:
                if self._has_room(frame):
                    self._take(frame, 1)
                    admitted.append(frame)
                else:
                    refused.append(frame)
        return admitted, refused

    def leave(self, frames: Iterable[Frame], served: bool = False) -> None:
        """They have been answered; with outputs, where they were served."""
        with self._lock:
            for frame in frames:
                self._take(frame, -1)
                if served and frame.patient:
                    self._patient_room.served()

    def gave_up(self, frame: Frame, now_us: int) -> None:
        """One of the open frames, which will not be served, because more came than can be."""
        with self._lock:
            if self._given_up.lost(now_us):
                self._usual.crowd(now_us)
            if frame.patient:
                self._patient_room.gave_up(self.bounds.patient_frames, self.bounds.longest_us, now_us)

    def _most_patient(self, now_us: int) -> int:
        return self._patient_room.most(self.bounds.patient_frames, self.bounds.longest_us, now_us)

    def _has_room(self, frame: Frame) -> bool:
        bounds = self.bounds
        if self._frames >= bounds.frames or self._bytes + len(frame.data) > bounds.bytes:
            return False
        return not self._is_patient(frame) or self._patient < self._most_patient(frame.arrived_us)

    def _take(self, frame: Frame, times: int) -> None:
        self._frames += times
        self._bytes += times * len(frame.data)
        if times > 0:
            frame.patient = self._is_patient(frame)
            self._given_up.came(frame.arrived_us)
            if not frame.patient:
                self._patient_room.other_came(self.bounds.longest_us, frame.arrived_us)
        if frame.patient:
            self._patient += times
        if frame.caller:
            self._take_named(frame, times)
            self._behind += times * int(frame.rank > 0)

    def _take_named(self, frame: Frame, times: int) -> None:
        count = self._by_caller.get(frame.caller, 0) + times
        self._named += times
        if count:
            self._by_caller[frame.caller] = count
        else:
            del self._by_caller[frame.caller]
        if is_known(frame.caller):
            self._known += times
        elif times > 0:
            frame.rank = self._rank(frame, count)
            self.crowding += int(frame.rank > 0)

    def _rank(self, frame: Frame, count: int) -> int:
        """Of a stranger's frame that has come; he has so many open with it."""
        usual, most, now_us = self._usual, self.bounds.crowd_frames, frame.arrived_us
        if self._frames > most:
            usual.crowd(now_us)
        elif not usual.is_crowded(now_us):
            if not frame.patient:
                usual.came(frame.caller, now_us)
            if 2 * self._frames <= most or count == self._named:
                return 0
        if not frame.patient and usual.keeps(frame.caller, now_us):
            return int(self._known > 0)
        return LAST_RANK if self._known or count * len(self._by_caller) > self._named else 1

    def _is_patient(self, frame: Frame) -> bool:
        return frame.deadline_us - frame.arrived_us > self.bounds.patient_us

    def text(self, model: str) -> str:
        """What a client reads whose frame was refused."""
        return (
            f"{model}: {self._frames} frames of {self._bytes >> 20} MiB are open, at most "
            f"{self.bounds.frames} of {self.bounds.bytes >> 20} MiB may be, fewer with a timeout well beyond "
            "the SLO: reason=overload"
        )


def bounds_of(served: ServedModel, longest_us: int, time_us: int, dispatchers: int) -> Bounds:
    """Of one of so many dispatchers of this host, as its memory is now. served: the whole model. longest_us:
    how long a caller may wait; time_us: how long frames have by plan.
    """
    served_frames = frames_per_us(served) * longest_us
    return Bounds(
        frames=max(SMALLEST_FRAMES, round(_SPARE * served_frames)),
        bytes=min(_shm_free() // 2, memory_free() // 4) // max(1, dispatchers),
        patient_frames=max(SMALLEST_FRAMES // 2, round(served_frames)),
        patient_us=round(_PATIENT_TIMES * time_us),
        longest_us=longest_us,
        crowd_frames=max(LEAST_CROWD, round(frames_per_us(served) * served.slo_us)),
    )


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
