"""How many patient frames may be open: what the plan serves in the longest time, less what others need of it.

Patient frames get what others leave, so as many as the plan serves would be given up where others need it,
those of a flood all at once; and giving one up costs more than refusing it.

Rules
- As many fewer than by plan as others have come in the last longest time.
- In the place of one that is given up for overload none comes; for each that is served one more may. Under
  lasting overload twice as many are open as are served in the longest time. That is over once none was given
  up for so long.
- LEAST may be in any case.
"""

from __future__ import annotations

from typing import Final

LEAST: Final = 16


class PatientRoom:
    """Told by one thread at a time, asked by any. Times in us on one clock that never goes back."""

    __slots__ = ("_began_us", "_last_us", "_others", "_others_before", "_taken")

    def __init__(self) -> None:
        self._taken = 0
        """Places that are not given again."""
        self._last_us = 0
        """When one was last given up."""
        self._began_us = 0
        self._others = 0
        self._others_before = 0
        """Of this stretch, which is as long as the longest time, and of the one before."""

    def most(self, planned: int, longest_us: int, now_us: int) -> int:
        """How many may be open, of so many by plan. longest_us: how long a frame may wait."""
        taken = self._still_taken(longest_us, now_us)
        return max(planned - taken - self._come_lately(longest_us, now_us), min(LEAST, planned))

    def gave_up(self, planned: int, longest_us: int, now_us: int) -> None:
        """One of the open ones; as in `most`."""
        self._taken = min(self._still_taken(longest_us, now_us) + 1, planned)
        self._last_us = now_us

    def served(self) -> None:
        """One of the open ones."""
        if self._taken > 0:
            self._taken -= 1

    def other_came(self, longest_us: int, now_us: int) -> None:
        """A frame that is not patient."""
        past_us = now_us - self._began_us
        if past_us >= longest_us:
            self._others_before = self._others if past_us < 2 * longest_us else 0
            self._others = 0
            self._began_us = now_us
        self._others += 1

    def _still_taken(self, longest_us: int, now_us: int) -> int:
        return 0 if now_us - self._last_us >= longest_us else self._taken

    def _come_lately(self, longest_us: int, now_us: int) -> int:
        """Others in the last longest time; those of the stretch before as if they had come evenly."""
        past_us = now_us - self._began_us
        if past_us < longest_us:
            return self._others + self._others_before * (longest_us - past_us) // longest_us
        if past_us < 2 * longest_us:
            return self._others * (2 * longest_us - past_us) // longest_us
        return 0
