"""The processes of a search: they end with it, and with whoever ran it, at once and without a word."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def search_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes ignore SIGINT and end when this thread's process does, kill -9 too. Where the
    context is left by an exception (Ctrl-C is one) running jobs are not waited for.
    """
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    )
    with pool:
        try:
            _start(pool, processes)
            yield pool
        except BaseException:
            # Its thread ends once its processes have. We wait for that: the interpreter, when it exits,
            # writes to the pipe of each pool whose thread still runs, and would find this one closed.
            for child in list((pool._processes or {}).values()):
                child.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _start(pool: ProcessPoolExecutor, processes: int) -> None:
    """Start all processes with SIGINT blocked, which they inherit: it must not meet them while they import,
    before _begin.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(processes):
            pool.submit(os.getpid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int) -> None:
    """Runs in each process, first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it ended before we asked to be told
