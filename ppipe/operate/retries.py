"""When a rollout that failed is tried again.

Rules
- After AGAIN_S, each time twice as long, at most `longest_s`.
- At once where other servers are out than when it failed: another plan is made for that.
"""

from __future__ import annotations

AGAIN_S = 2.0


class Retries:
    """See the module."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._out: frozenset[str] = frozenset()
        self._waits_s = 0.0
        self._until_s = 0.0

    def failed(self, out: frozenset[str], now_s: float) -> None:
        """A rollout failed that was planned without these servers."""
        again = out == self._out and self._waits_s > 0
        self._waits_s = min(self._longest_s, 2 * self._waits_s if again else AGAIN_S)
        self._out, self._until_s = out, now_s + self._waits_s

    def done(self) -> None:
        """One was made."""
        self._waits_s = self._until_s = 0.0

    def wait_s(self, out: frozenset[str], now_s: float) -> float:
        """How long one without these servers is not tried yet; 0: it may be."""
        return max(0.0, self._until_s - now_s) if out == self._out else 0.0
