"""Ctrl-C, SIGTERM and SIGHUP end a command as an error does: contexts are left, so servers are stopped.

Rules: the first signal raises SystemExit in the main thread with status 128 + its number; later ones are
ignored, so that they do not interrupt the cleaning up. (A `kill -9` leaves the cleaning up to the guards.)
"""

from __future__ import annotations

import signal
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_on_signals() -> None:
    """Install the handlers, even where a shell started us in the background with SIGINT ignored."""
    for number in ENDING:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
