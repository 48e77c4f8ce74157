"""The processes that plan: one that ends by itself costs its plan, not the loop."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import BrokenExecutor

from ppipe.operate.planners import Planner


def test_a_planner_that_was_killed_is_started_anew() -> None:
    planner = Planner(nice=0)
    try:
        first = planner.submit(os.getpid).result()
        os.kill(first, signal.SIGKILL)
        until_s = time.monotonic() + 60.0
        while True:
            try:
                second = planner.submit(os.getpid).result()
                break
            except BrokenExecutor:
                assert time.monotonic() < until_s
        assert second != first
    finally:
        planner.close()
