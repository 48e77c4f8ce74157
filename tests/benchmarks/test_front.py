"""The parts of the front benchmark that need no server."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks.front import floor_ms
from benchmarks.helpers.loads.jpegs import camera_jpegs
from benchmarks.helpers.machines.cpu_time import tree_us


def test_jpegs_are_of_the_size_that_was_asked_for() -> None:
    jpegs = camera_jpegs(3, 640, 480, 60_000)
    assert len(set(jpegs)) == 3
    assert all(50_000 < len(jpeg) <= 60_000 for jpeg in jpegs)


def test_the_floor_is_what_decoding_takes() -> None:
    small, large = (floor_ms(camera_jpegs(2, *size, 200_000)) for size in ((320, 240), (1280, 960)))
    assert 0 < small < large


def test_processes_below_are_counted_with_those_that_ended() -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    below = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", below])
    try:
        end_s = time.monotonic() + 20
        while tree_us([process.pid]) < 250_000:
            assert time.monotonic() < end_s
            time.sleep(0.05)
        assert tree_us([os.getpid()]) >= tree_us([process.pid])
    finally:
        process.kill()
        process.wait()
    assert tree_us([process.pid]) == 0


@pytest.mark.parametrize("pids", [[], [1 << 30]])
def test_processes_that_are_not_there_have_used_nothing(pids: list[int]) -> None:
    assert tree_us(pids) == 0
