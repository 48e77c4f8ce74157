"""The pool of a server: `python -m python_backend.stage.pool.server`, started by the first stage worker that
needs it, with the listening socket as its standard input.

Rules
- One parent, which has imported everything, forks one process per core and another one for each that ends.
  It runs no decoder itself.
- Whoever connects is of the same user and gets the socket for jobs. The connection itself says nothing more:
  while there is any, the pool lives; some time after the last has gone, it ends.
- A process works on one frame at a time, with a limit of its time and memory. What breaks either ends it.
- Processes end with their parent, however that ends.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib
import os
import resource
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ensembles.prepare.faults import FrameFault
from ensembles.prepare.resizing import use_one_thread
from planner import serial
from planner.ingress import PrepareRecipe
from python_backend.stage.pool.connecting import lock_of, locked
from python_backend.stage.pool.jobs import MESSAGE_BYTES, FrameJob, RecordState, decode, write_record
from python_backend.stage.pool.slots import Mapped
from python_backend.wire.clock import now_us
from python_backend.wire.kserve import Array, Buffer
from python_backend.wire.ragged import FrameInfo

Work = Callable[[FrameInfo, Buffer, PrepareRecipe], Array]
FRAME_S = 20.0
"""A frame that takes longer is taken for one that hangs its decoder."""
MEMORY_BYTES = 2 << 30
"""What decoding may take beyond what a process has at its start; 89 million pixels take 0.8 GB."""
IDLE_S = 1.0
KEPT_BYTES = 64 << 20
"""Of freed memory, by each process: a frame's planes and pixels take some MB, and pages that go back to the
system after each one cost as much as resizing does. Servers that `ppipe serve` starts are told how much.
"""
_KEPT_VARIABLE = "MALLOC_TRIM_THRESHOLD_"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_BYTES = 32 << 20
"""The most that glibc takes. What is larger is given back when it is freed."""
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main(arguments: list[str] | None = None) -> None:
    """Serve until nobody is connected any more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--work", default="python_backend.stage.pixels:pixels_of")
    parser.add_argument("--name", type=Path, required=True, help="of the socket: removed at the end")
    options = parser.parse_args(arguments)
    use_one_thread()
    listening = socket.socket(fileno=os.dup(0))
    PreparePool(listening, options.cores, _imported(options.work)).run()
    with locked(options.name):  # so nobody has put another pool there
        options.name.unlink(missing_ok=True)
        lock_of(options.name).unlink(missing_ok=True)


def _imported(path: str) -> Work:
    module, _, name = path.partition(":")
    found: Work = getattr(importlib.import_module(module), name)
    return found


class PreparePool:
    """The parent."""

    def __init__(self, listening: socket.socket, cores: int, work: Work) -> None:
        self._listening = listening
        self._cores = cores
        self._work = work
        self._jobs_out, self._jobs_in = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._selector = selectors.DefaultSelector()
        self._connections: set[socket.socket] = set()
        self._children: dict[int, int] = {}
        """Process ids by their descriptors."""

    def run(self) -> None:
        """Until nobody is connected any more."""
        self._listening.setblocking(False)
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        for _ in range(self._cores):
            self._fork()
        last_s = time.monotonic()
        while self._connections or time.monotonic() - last_s < IDLE_S:
            for key, _ in self._selector.select(IDLE_S / 3):
                key.data()
            if self._connections:
                last_s = time.monotonic()
        for pid in self._children.values():
            os.kill(pid, signal.SIGKILL)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[1] != os.geteuid():
                connection.close()
                return
            self._connections.add(connection)
            self._selector.register(
                connection, selectors.EVENT_READ, functools.partial(self._gone, connection)
            )
            socket.send_fds(connection, [b"jobs"], [self._jobs_in.fileno()])

    def _gone(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._connections.discard(connection)
        connection.close()

    def _fork(self) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                _set_limits(parent)
                self._selector.close()
                self._listening.close()
                for connection in self._connections:
                    connection.close()
                self._jobs_in.close()
                serve(self._jobs_out, self._work)
            finally:
                os._exit(0)
        descriptor = os.pidfd_open(pid)
        self._children[descriptor] = pid
        self._selector.register(descriptor, selectors.EVENT_READ, functools.partial(self._ended, descriptor))

    def _ended(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        pid = self._children.pop(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        print(f"ppipe prepare: a process ended ({_how(status)}); another takes its place", flush=True)
        self._fork()


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"status {os.waitstatus_to_exitcode(status)}"


def _set_limits(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _KEPT_VARIABLE not in os.environ and hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    if os.getppid() != parent:
        os._exit(0)  # it ended before we asked to be told
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def serve(jobs: socket.socket, work: Work) -> None:
    """Take jobs, one at a time, until nobody can send any."""
    mapped = Mapped()
    while True:
        message, descriptors, _, _ = socket.recv_fds(jobs, MESSAGE_BYTES, 2)
        if not message:
            return
        try:
            if len(descriptors) == 2:
                memory = mapped.find(descriptors[0], time.monotonic())
                _do(decode(message), memoryview(memory), work)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _do(job: FrameJob, memory: memoryview, work: Work) -> None:
    if job.until_us is not None and now_us() > job.until_us:
        write_record(memory, job.record, RecordState.LATE)
        return
    write_record(memory, job.record, RecordState.TAKEN)
    signal.setitimer(signal.ITIMER_REAL, FRAME_S)
    recipe = _recipe(job.recipe)
    shape = (recipe.height, recipe.width, recipe.channels)
    try:
        frame = memory[job.source : job.source + job.size]
        pixels = work(FrameInfo(job.kind, job.size, job.width, job.height), frame, recipe)
        np.ndarray(shape, np.uint8, memory, job.target)[...] = pixels
    except FrameFault as fault:
        write_record(memory, job.record, RecordState.FAULT, str(fault))
    else:
        write_record(memory, job.record, RecordState.DONE)
    signal.setitimer(signal.ITIMER_REAL, 0)


@functools.lru_cache(maxsize=64)
def _recipe(text: str) -> PrepareRecipe:
    return serial.loads(PrepareRecipe, text)


if __name__ == "__main__":
    main()
