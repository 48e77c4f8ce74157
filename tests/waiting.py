"""Waiting for what has to come true, on a host that may be slow: never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(
    true: Callable[[], object], limit_s: float = 120.0, found: Callable[[], object] = lambda: ""
) -> None:
    """Return once it is true, looking ever less often; fails after limit_s, with what was found instead."""
    began_s = time.monotonic()
    while not true():
        waited_s = time.monotonic() - began_s
        assert waited_s < limit_s, f"it was not true within {limit_s:g} s; {found()}"
        time.sleep(min(max(0.002, waited_s / 10), 0.1))
