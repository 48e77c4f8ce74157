"""A frame's priority, as its client says it: the request parameter `ppipe_priority`.

Not Triton's own `priority`: its front ends take that out of a request, and Python models cannot see it. The
numbers mean the same: 1 goes first and is the default. The range is small and fixed, because the core keeps
its queue in order of priority, and a caller must not be able to make it long in that direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRIORITY = "ppipe_priority"
FIRST, LAST = 1, 9


def priority_of(parameters: Mapping[str, Any]) -> int:
    """The core's priority, where higher goes first: 0 for the default, -8 for the last. Raises ValueError."""
    value = parameters.get(PRIORITY, FIRST)
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or not FIRST <= number <= LAST:
        raise ValueError(
            f"parameter {PRIORITY}: {str(value)[:40]!r} is not a whole number from {FIRST} (first, the "
            f"default) to {LAST} (last)"
        )
    return FIRST - number
