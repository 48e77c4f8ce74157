"""What a cascade counts, in memory: frames and how they ended, and what its members were asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from enum import Enum

from python_backend.cascade.parent import Ask


class End(Enum):
    """How a frame of a cascade ends."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    """Answered with what was there."""
    DECLINED = "declined"
    """Its first model declined it, or had no answer by the deadline."""
    SUPERSEDED = "superseded"
    """A newer frame of its stream came while it waited for its first model."""
    FAILED = "failed"
    GONE = "gone"
    """Its caller has gone."""


class CascadeCounts:
    """Series by the name of their family and their one label, '' where there is none. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def arrived(self) -> None:
        """A frame came."""
        self._add("frames_total", "", 1)

    def asked(self, asks: Sequence[Ask]) -> None:
        """Members are asked these."""
        for ask in asks:
            self._add("asked_total", ask.member.model, 1)

    def answered(self, model: str, took_us: int) -> None:
        """A member answered a frame."""
        self._add("answered_total", model, 1)
        self._add("answer_us_total", model, took_us)

    def handed(self, model: str, took_us: int) -> None:
        """All frames of a member that come of one answer were sent, so long after the answer."""
        self._add("handed_total", model, 1)
        self._add("handed_us_total", model, took_us)

    def missed(self, model: str, frames: int) -> None:
        """So many frames of a member were not made, or not answered."""
        self._add("missing_total", model, frames)

    def ended(self, end: End, took_us: int) -> None:
        """A frame has its end."""
        self._add("ended_total", end.value, 1)
        if end is End.COMPLETE:
            self._add("latency_us_total", "", took_us)

    def value(self, family: str, label: str = "") -> int:
        """Of one series; 0 where nothing was counted."""
        with self._lock:
            return self._counts[family, label]

    def open_frames(self) -> int:
        """Frames without an end."""
        with self._lock:
            ended = sum(self._counts["ended_total", end.value] for end in End)
            return self._counts["frames_total", ""] - ended

    def _add(self, family: str, label: str, by: int) -> None:
        with self._lock:
            self._counts[family, label] += by
