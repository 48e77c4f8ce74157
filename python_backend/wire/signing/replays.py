"""Tickets that were used: each is good once, and not for long.

Rules
- A ticket is known by its stamp. One that was sent more than LIFETIME_US ago, or will be, is refused, so
  that what is remembered is bounded in time: between two lifetimes and four.
- What is remembered is bounded in number too. Only genuine tickets are remembered, so it is their own
  dispatcher that would have to send MOST of them in two lifetimes; then further ones are refused.
- A ticket of this host that was sent before this receiver began is refused: what a receiver remembered ends
  with its process. Other hosts' clocks may be set differently, so theirs are not: within a lifetime after a
  restart, a batch of theirs that was served before could be served again, unchanged.
"""

from __future__ import annotations

import threading

from python_backend.wire.signing.keys import Stamp, TicketError

LIFETIME_US = 10_000_000
"""Longer than any ticket is on its way, and than clocks of hosts in one fleet may differ."""
MOST = 200_000


class UsedTickets:
    """See the module. Thread-safe. Times are those of the day, in microseconds."""

    def __init__(self, began_us: int, lifetime_us: int = LIFETIME_US, most: int = MOST) -> None:
        self._began_us = began_us
        self._lifetime_us = lifetime_us
        self._most = most
        self._young: set[tuple[str, int]] = set()
        self._old: set[tuple[str, int]] = set()
        self._turned_us = began_us
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def use(self, stamp: Stamp, now_us: int, same_host: bool) -> None:
        """Raises TicketError unless this ticket may be used, for the first time."""
        age_us = now_us - stamp.sent_us
        if abs(age_us) > self._lifetime_us:
            raise TicketError(
                f"ticket sent {age_us / 1e6:.1f} s ago by its sender's clock; at most "
                f"{self._lifetime_us / 1e6:.0f} s would do: are the clocks of all hosts set (NTP, chrony)?"
            )
        if same_host and stamp.sent_us < self._began_us:
            raise TicketError("ticket sent before this worker was started; it may have been used then")
        used = (stamp.run, stamp.number)
        with self._lock:
            # A ticket from the future lives until then, and a lifetime more.
            if now_us - self._turned_us > 2 * self._lifetime_us:
                self._old, self._young = self._young, set()
                self._turned_us = now_us
            if used in self._young or used in self._old:
                raise TicketError("ticket was used before; each is good once")
            if len(self._young) >= self._most:
                raise TicketError(f"more than {self._most} tickets in {2 * self._lifetime_us / 1e6:.0f} s")
            self._young.add(used)
