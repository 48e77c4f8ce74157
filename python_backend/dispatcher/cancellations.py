"""Finds waiting frames whose callers have gone, so that what was not yet started is never started.

Asking is a round trip to the server process, which costs both of them a tenth of a millisecond. So a frame
is asked about when it has waited for an eighth of the time that it has, or a tenth of a second, again
whenever it has waited twice as long, and some per tick.
"""

from __future__ import annotations

import math
import threading

from python_backend.dispatcher.driver import Driver
from python_backend.dispatcher.frames.frame import Frame
from python_backend.wire.clock import now_us

_TICK_S, _REST_S = 0.02, 0.1
"""The shortest and the longest pause: where no frame is to be asked about soon, a dispatcher costs little."""
_WAITED_US = (20_000, 100_000)
"""At least and at most; between them it is this part of the time from a frame's arrival to its deadline."""
_WAITED_PART = 8
_PER_TICK = 16
"""A twelfth of a core's time: asking about thousands of frames must not keep others from being served."""


class Cancellations:
    """A thread of its own beside a driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._last_asked = -1
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancellations", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause_s = _REST_S
        while not self._closing.wait(pause_s):
            pause_s = min(max(self._tick() / 1e6, _TICK_S), _REST_S)

    def _tick(self) -> float:
        """Ask about those whose time has come; us until the next one's comes, infinite for none."""
        at_us = now_us()
        waiting = []
        next_us = math.inf
        for frame in self._driver.waiting_frames():
            if frame.waits:
                left_us = frame.arrived_us + _asked_next_us(frame) - at_us
                if left_us <= 0:
                    waiting.append(frame)
                else:
                    next_us = min(next_us, left_us)
        # In turn, going on where the last tick ended: the oldest alone would hide all others.
        later = [frame for frame in waiting if frame.request_id > self._last_asked] or waiting
        for frame in later[:_PER_TICK]:
            self._last_asked = frame.request_id
            frame.asked_after_us = at_us - frame.arrived_us
            if frame.ask_cancelled():
                self._driver.cancel(frame)
        return 0 if len(later) > _PER_TICK else next_us


def _asked_next_us(frame: Frame) -> int:
    """How long it must have waited."""
    if frame.asked_after_us:
        return 2 * frame.asked_after_us
    least_us, most_us = _WAITED_US
    return max(least_us, min((frame.deadline_us - frame.arrived_us) // _WAITED_PART, most_us))
