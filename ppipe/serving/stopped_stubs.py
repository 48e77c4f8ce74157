"""Ends Python processes of a tritonserver that have been stopped for a second.

A stub that is stopped for about two seconds and then goes on makes its tritonserver (2.51) abort, and with it
all models of that server. One that was killed costs one model, for as long as it takes to load. What stops
processes: SIGSTOP, a debugger, a shell's Ctrl-Z.

Looked at from a thread of its own: what else watches a server waits for answers, also for those of a stub
that is stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

STOPPED_S = 1.0
"""0.8 s are survived."""
_TICK_S = 0.2
_STOPPED_STATES = ("T", "t")


class Stops:
    """Since when which process has been stopped. Pure: states and time are told."""

    def __init__(self, allowed_s: float = STOPPED_S) -> None:
        self._allowed_s = allowed_s
        self._since_s: dict[int, float] = {}

    def over(self, stopped: Iterable[int], now_s: float) -> list[int]:
        """Of the processes that are stopped now, those that have been for longer than is allowed."""
        self._since_s = {pid: self._since_s.get(pid, now_s) for pid in stopped}
        return [pid for pid, since_s in self._since_s.items() if now_s - since_s > self._allowed_s]


class StoppedStubs(threading.Thread):
    """A thread that looks after the stubs of one server; `note` hears of each that it ends."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(name="stopped-stubs", daemon=True)
        self._note = note
        self._stubs: dict[str, int] = {}
        self._closing = threading.Event()

    def watch(self, model: str, pid: int) -> None:
        """Look after `pid`, the Python process of `model` from now on."""
        self._stubs[model] = pid

    def run(self) -> None:
        """Look, until it is closed."""
        stops = Stops()
        while not self._closing.wait(_TICK_S):
            stubs = {pid: model for model, pid in list(self._stubs.items())}
            for pid in stops.over(filter(is_stopped, stubs), time.monotonic()):
                self._end(pid, stubs[pid])

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self.is_alive():
            self.join()

    def _end(self, pid: int, model: str) -> None:
        self._note(
            f"the Python process of model {model!r} has been stopped for over {STOPPED_S:g} s: ended, since "
            "its going on would end the server"
        )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a signal or a debugger; False once it has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in _STOPPED_STATES
