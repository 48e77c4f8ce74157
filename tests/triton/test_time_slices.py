"""Wishes for short time slices, read back from the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from python_backend.triton.time_slices import SLICE_NS, slice_ns, take_short_slices

_NICE = 5


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits, nicer than others."""
    with subprocess.Popen(["sleep", "600"]) as process:
        os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        yield process
        process.kill()


@pytest.fixture
def _kernel_takes_wishes() -> None:
    if slice_ns(os.getpid()) == 0:
        pytest.skip("this Linux is older than 6.12 and knows no such wishes")


@pytest.mark.usefixtures("_kernel_takes_wishes")
def test_a_process_gets_short_slices_and_stays_as_nice_as_it_was(other: subprocess.Popen[bytes]) -> None:
    assert take_short_slices(other.pid) == 1
    assert slice_ns(other.pid) == SLICE_NS
    assert os.getpriority(os.PRIO_PROCESS, other.pid) == _NICE
    assert os.sched_getscheduler(other.pid) == os.SCHED_OTHER


@pytest.mark.usefixtures("_kernel_takes_wishes")
def test_threads_that_start_later_have_them_too() -> None:
    program = (
        "import os, threading\n"
        "from python_backend.triton.time_slices import slice_ns, take_short_slices\n"
        "take_short_slices(os.getpid())\n"
        "threading.Thread(target=lambda: print(slice_ns(threading.get_native_id()))).start()\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(SLICE_NS)]


def test_a_real_time_policy_is_left_alone(other: subprocess.Popen[bytes]) -> None:
    try:
        os.sched_setscheduler(other.pid, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pytest.skip("this user may set no real-time policy")
    assert take_short_slices(other.pid) == 0
    assert os.sched_getscheduler(other.pid) == os.SCHED_FIFO


def test_of_a_process_that_has_ended_nothing_is_said(other: subprocess.Popen[bytes]) -> None:
    other.kill()
    other.wait()
    assert take_short_slices(other.pid) == 0
    with pytest.raises(OSError, match="No such process"):
        slice_ns(other.pid)
