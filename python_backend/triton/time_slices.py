"""How long a thread runs before others have their turn: short in an entry that was flooded once.

A request passes from Triton's threads to the dispatcher's and back. In a flood, threads that read requests
have the processors; each hand-over then waits for their time slices (1.4 ms each on two cores), while up to
1,900 requests were seen to come in. With slices of 0.1 ms the entry's threads give way to each other sooner;
nobody's share of the processors is another. Small frames may then cost 1 or 2 % more processor time, so an
entry that never refused one keeps the kernel's own slices.

Linux takes such a wish since 6.12 (sched(7), EEVDF: `sched_runtime` of threads without a real-time policy);
before, it has no effect.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import Final

SLICE_NS: Final = 100_000
"""The least that Linux takes."""
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")
"""sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period."""
_SYSTEM_CALL: Final = {"x86_64": 314, "aarch64": 274}
"""sched_setattr; sched_getattr is the next. glibc has had functions for them since 2.41."""
_ORDINARY: Final = (os.SCHED_OTHER, os.SCHED_BATCH)


def take_short_slices(pid: int) -> int:
    """Every thread that this process has, and what those start. Returns how many threads it is said of: none
    on other processors than x86-64 and AArch64, of another user's process, or under a real-time policy.
    """
    said, number, libc = 0, _SYSTEM_CALL.get(platform.machine()), ctypes.CDLL(None)
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir() if number else ():
            wish = _wish(int(task.name))
            said += bool(wish) and libc.syscall(number, int(task.name), wish, 0) == 0
    return said


def _wish(thread: int) -> bytes:
    """For short slices, and for all else that the system call sets as it is; empty for a thread that has
    ended, or has a real-time policy.
    """
    with contextlib.suppress(OSError):
        policy, nice = os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)
        if policy in _ORDINARY:
            return _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, nice, 0, SLICE_NS, 0, 0)
    return b""


def slice_ns(thread: int) -> int:
    """How long this thread's slices are: the kernel's own length, or what was wished; 0 where Linux is too
    old to say. Raises OSError where there is no such thread.
    """
    answer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYSTEM_CALL[platform.machine()] + 1, thread, answer, _ATTRIBUTES.size, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(_ATTRIBUTES.unpack(answer.raw)[5])
