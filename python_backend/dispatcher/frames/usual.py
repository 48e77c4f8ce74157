"""What each caller usually sends, learned while nobody is crowded out, and who keeps to it while somebody is.

So who was served before a flood goes on as before, however many addresses the flood comes from: they all are
new, or send more than they did.

Rules
- Time passes in slices. What came in a slice counts when the next one has ended calm, too; of a crowded one
  and the one before nothing counts, and no time has passed. So the first frames of a flood, which come before
  it crowds, are not its custom.
- A caller's rate is the mean over the calm slices in which he sent something, what is longer ago than
  MEMORY_US counting less and less. It is kept however long the crowding lasts.
- Pauses do not lower it while he sends in ACTIVE_SHARE of the calm time since he was first seen; beyond that
  they count. So who takes turns with others, all of them his, has that many times their rate at most.
- While it is crowded a caller keeps to it with frames that come at MARGIN times his rate at most, in bunches
  of BUNCH_US at that rate and one frame: the generic cell rate algorithm (ITU-T I.371).
- At most MOST_CALLERS are remembered; who has not called for the longest calm time is forgotten first.
"""

from __future__ import annotations

from math import exp
from typing import Final

SLICE_US: Final = 500_000
HOLD_US: Final = 2_000_000
"""It is crowded for so long after it last was: a flood's pauses are not calm."""
MEMORY_US: Final = 60_000_000
ACTIVE_SHARE: Final = 0.25
"""Who sends for a quarter of the time, such as in jobs, sends then what he usually does."""
MARGIN: Final = 1.5
BUNCH_US: Final = 300_000
MOST_CALLERS: Final = 4_096


class Custom:
    """One caller's: calm time that counts, of it the slices in which he sent, frames in them, and when he was
    last heard of on the calm clock."""

    __slots__ = ("active_us", "due_us", "frames", "seen_us", "time_us")

    def __init__(self, seen_us: float) -> None:
        self.frames: float = 0.0
        self.active_us: float = 0.0
        self.time_us: float = 0.0
        self.seen_us: float = seen_us
        self.due_us: float = 0.0
        """When his next frame would come at MARGIN times his rate."""

    def add(self, frames: int, begun_us: float, calm_us: float) -> None:
        """So many came in a slice between these calm times."""
        kept = exp((self.seen_us - calm_us) / MEMORY_US)
        self.frames = self.frames * kept + frames
        self.active_us = self.active_us * kept + calm_us - begun_us
        self.time_us = self.time_us * kept + MEMORY_US * (1.0 - kept)
        self.seen_us = calm_us

    def between_us(self) -> float:
        """Of two frames, as he usually sends them, on average."""
        return max(self.active_us, ACTIVE_SHARE * self.time_us) / self.frames


class Usual:
    """See the module. Used by one thread at a time. Times in us on one clock that never goes back."""

    def __init__(self) -> None:
        self._customs: dict[str, Custom] = {}
        """Who was heard of last comes last."""
        self._slice: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._last_us = 0
        """The slice before this one, and how long it was."""
        self._began_us = 0
        self._calm_us: float = 0.0
        self._crowded_until_us = 0

    def is_crowded(self, now_us: int) -> bool:
        """Whether it is, or was a moment ago."""
        return now_us < self._crowded_until_us

    def crowd(self, now_us: int) -> None:
        """It is crowded now."""
        self._slice.clear()
        self._last.clear()
        self._last_us = 0
        self._crowded_until_us = self._began_us = now_us + HOLD_US

    def came(self, caller: str, now_us: int) -> None:
        """One frame, while it is not crowded."""
        if now_us - self._began_us >= SLICE_US:
            self._end_slice(now_us)
        self._slice[caller] = self._slice.get(caller, 0) + 1

    def would_keep(self, caller: str, now_us: int) -> bool:
        """Whether a frame that comes now is within what the caller usually sends."""
        custom = self._customs.get(caller)
        return custom is not None and custom.due_us <= now_us + BUNCH_US

    def keeps(self, caller: str, now_us: int) -> bool:
        """As would_keep; the frame counts as sent then."""
        if not self.would_keep(caller, now_us):
            return False
        custom = self._customs[caller]
        custom.due_us = max(custom.due_us, float(now_us)) + custom.between_us() / MARGIN
        return True

    def _end_slice(self, now_us: int) -> None:
        begun_us, self._calm_us = self._calm_us, self._calm_us + self._last_us
        for caller, frames in self._last.items():
            custom = self._customs.pop(caller, None) or Custom(begun_us)
            custom.add(frames, begun_us, self._calm_us)
            self._customs[caller] = custom
        self._last, self._slice = self._slice, {}
        self._last_us, self._began_us = now_us - self._began_us, now_us
        while len(self._customs) > MOST_CALLERS:
            del self._customs[next(iter(self._customs))]
