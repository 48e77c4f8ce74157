"""Which stopped processes are ended, and when; a real process that is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from ppipe.serving.stopped_stubs import STOPPED_S, StoppedStubs, Stops, is_stopped


def test_a_process_is_over_once_it_has_been_stopped_for_long_without_a_break() -> None:
    stops = Stops(allowed_s=1.0)
    assert stops.over([1, 2], 10.0) == []
    assert stops.over([1], 10.9) == []
    assert stops.over([1, 2], 11.1) == [1], "2 went on in between"
    assert stops.over([2], 12.0) == []
    assert stops.over([2], 12.2) == [2]
    assert stops.over([], 99.0) == []


def test_a_stopped_process_is_ended_and_one_that_runs_is_not() -> None:
    said: list[str] = []
    watcher = StoppedStubs(said.append)
    with (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stopped,
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as running,
    ):
        try:
            watcher.watch("resnet.w0", stopped.pid)
            watcher.watch("resnet.w1", running.pid)
            assert not is_stopped(stopped.pid)
            os.kill(stopped.pid, signal.SIGSTOP)
            began_s = time.monotonic()
            watcher.start()
            assert stopped.wait(20) == -signal.SIGKILL
            assert time.monotonic() - began_s > STOPPED_S
            assert running.poll() is None
            assert [line.split(":")[0] for line in said] == [
                "the Python process of model 'resnet.w0' has been stopped for over 1 s"
            ]
            assert not is_stopped(stopped.pid), "it has ended"
        finally:
            watcher.close()
            for process in (stopped, running):
                process.kill()
