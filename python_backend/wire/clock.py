"""The one clock of the data plane: CLOCK_MONOTONIC, which all processes of a host share, in whole
microseconds.
"""

from __future__ import annotations

import time
from typing import Final

from python_backend.scheduler.timelines import NEVER

__all__ = ["NEVER", "now_us", "sleep_until"]


_monotonic_ns: Final = time.monotonic_ns


def now_us() -> int:
    """Microseconds since some fixed time before this host's processes started."""
    return _monotonic_ns() // 1000


def sleep_until(end_us: int) -> None:
    """Return at `end_us`, or at once when it has passed."""
    while (left_us := end_us - now_us()) > 0:
        time.sleep(left_us / 1e6)
