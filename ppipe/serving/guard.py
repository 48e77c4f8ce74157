"""Holds one child process so that nothing of it outlives its owner, not even after `kill -9` of the owner.

Run as a script of its own, `python -I -S guard.py [--shm PREFIX]... [--grace SECONDS] -- COMMAND...`, with
standard input on a pipe whose other end only the owner has. It uses the standard library alone, so that one
costs little.

Rules
- The owner's end of the pipe closes (it ended, however that was): everything below is killed at once.
- SIGTERM or SIGINT: the child gets SIGTERM, and is killed once `grace` seconds are over.
- However the child ends, all that descends from it is killed too, then its shared-memory files are removed:
  those in /dev/shm whose name starts with a PREFIX. The exit status is the child's, 128 + N after signal N.
- What the child makes only its own user can read: by umask, and in /dev/shm, where Triton gives its regions
  mode 0644 whatever the umask is, by taking that back within a fraction of a millisecond.
- If the guard itself is killed, the kernel kills the child.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHM = Path("/dev/shm")
CLOSER = Path(__file__).parents[2] / "model_repo_generator" / "kubernetes" / "container"
"""Where closer.py is, which needs the standard library alone, too."""
DEFAULT_GRACE_S = 8.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def has_room(prefix: str, folder: Path = SHM) -> bool:
    """Whether shared memory could take as much again as the largest file whose name starts with `prefix`, and
    would not be full then.
    """
    largest = max((path.stat().st_size for path in folder.glob(f"{prefix}*")), default=0)
    free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize > 2 * largest


def sweep(prefix: str) -> list[str]:
    """Remove the shared-memory files whose name starts with `prefix`; returns the names removed.

    Raises ValueError for a prefix so short that it might be someone else's.
    """
    if len(prefix) < 8 or "/" in prefix:
        raise ValueError(f"shared-memory prefix {prefix!r}: expected at least 8 characters and no '/'")
    removed = []
    for path in SHM.iterdir() if SHM.is_dir() else ():
        if path.name.startswith(prefix):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return sorted(removed)


def children_of(pid: int) -> list[int]:
    """Process ids of the direct children of `pid`, of all its threads; empty once it is gone."""
    found = []
    for found_stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = found_stat.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue  # ended meanwhile
        if int(fields[1]) == pid:
            found.append(int(found_stat.parent.name))
    return sorted(found)


def main(arguments: list[str]) -> int:
    """Guard one command to its end and give its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shm", action="append", default=[])
    parser.add_argument("--grace", type=float, default=DEFAULT_GRACE_S)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    os.umask(0o077)  # Triton's shared memory is otherwise there for everybody on this host to read
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signals_in, signals_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(signals_out)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    closer = _closer(libc, options.shm)
    child = subprocess.Popen(
        options.command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    )
    try:
        _watch(child, signals_in, options.grace, closer)
    finally:
        _kill_all(child)
        for prefix in options.shm:
            sweep(prefix)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _closer(libc: ctypes.CDLL, prefixes: list[str]) -> Any:
    sys.path.append(str(CLOSER))
    from closer import Closer  # type: ignore[import-not-found]

    return Closer(libc, prefixes)


def _watch(child: subprocess.Popen[bytes], signals_in: int, grace_s: float, closer: Any) -> None:
    """Returns when the child has ended or must be killed."""
    ended = os.pidfd_open(child.pid)
    owner = sys.stdin.fileno()
    give_up: float | None = None
    while True:
        left = None if give_up is None else max(0.0, give_up - time.monotonic())
        ready, _, _ = select.select([ended, owner, signals_in, closer.descriptor], [], [], left)
        if closer.descriptor in ready:
            closer.close_new()
            continue
        if ended in ready or not ready:
            return
        if owner in ready and not os.read(owner, 64):
            return
        if signals_in in ready and os.read(signals_in, 64) and give_up is None:
            child.terminate()
            give_up = time.monotonic() + grace_s


def _kill_all(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child and of all that came from it; as subreaper, we inherit every orphan."""
    if child.poll() is None:
        child.kill()
    child.wait()
    while orphans := children_of(os.getpid()):
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
