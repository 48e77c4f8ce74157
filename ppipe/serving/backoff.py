"""How long to wait before a dead server is started again."""

from __future__ import annotations


class BackOff:
    """Nothing after a run of `healthy_s` seconds; then `first_s`, doubled each time up to `most_s`."""

    def __init__(self, first_s: float = 0.5, most_s: float = 30.0, healthy_s: float = 3.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._healthy_s = healthy_s
        self._next_s = first_s

    def after(self, served_s: float) -> float:
        """Seconds to wait now that a server has died after `served_s` seconds of service."""
        if served_s >= self._healthy_s:
            self._next_s = self._first_s
            return 0.0
        wait_s = self._next_s
        self._next_s = min(self._most_s, 2 * self._next_s)
        return wait_s
