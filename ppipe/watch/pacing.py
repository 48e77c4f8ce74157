"""Which pictures of a source are sent, and when: pure, told the time."""

from __future__ import annotations

from enum import Enum

LATE_S = 0.25
"""A picture that is read so long after its time is left out: what is watched is what happens now."""
_EARLY_S = 1e-6


class SendPolicy(Enum):
    """What happens where a source is faster than answers come."""

    SKIP = "skip"
    """Pictures go out when they are due; those for which there is no room are left out."""
    FOLLOW = "follow"
    """Every picture is sent; the source waits."""


class Thinning:
    """Keeps at most so many pictures a second, evenly; None: all."""

    def __init__(self, fps: float | None) -> None:
        self._gap_s = 1 / fps if fps else 0.0
        self._next_s = 0.0

    def keeps(self, pts_s: float) -> bool:
        """Of the next picture, by its time in the source."""
        if pts_s < self._next_s - self._gap_s - _EARLY_S:  # the source began anew
            self._next_s = pts_s
        if pts_s < self._next_s - _EARLY_S:
            return False
        # From where it was due, not from where it came: else 20 of 30 a second would be 15.
        late = pts_s >= self._next_s + self._gap_s
        self._next_s = (pts_s if late else self._next_s) + self._gap_s
        return True


class Pace:
    """When the pictures of a file are due: as far apart as in the file."""

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s

    def due_s(self, pts_s: float) -> float:
        """On the clock of `began_s`."""
        return self._began_s + pts_s
