"""How long a hop is waited for beyond its frames' deadline: longest at the entry, so that a failure far down
the chain is told by the stage that saw it and not by a time-out above it.

- A client is never left longer than a second after its deadline: the entry waits for 0.3 s, stages for 0.2 s.
- With the late policy `serve` frames are answered whenever they are ready: the entry waits for a minute,
  stages for half of it.
"""

from __future__ import annotations

from typing import Final

ENTRY_US: Final = 300_000
ENTRY_LATE_US: Final = 60_000_000
STAGE_US: Final = 200_000
STAGE_LATE_US: Final = 30_000_000


def entry_us(serves_late: bool) -> int:
    """Of the dispatcher's hop to a first stage."""
    return ENTRY_LATE_US if serves_late else ENTRY_US


def stage_us(serves_late: bool) -> int:
    """Of a stage's hop to the next one."""
    return STAGE_US + (STAGE_LATE_US if serves_late else 0)
