"""Finds the pool of this server, and starts it where there is none.

Rules
- Its socket lies in /dev/shm under the server's prefix, made for this user alone; a file of anybody else's
  there is refused.
- Whoever has the lock file locked may start the pool, so there is one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from python_backend.wire.shm.file import SHM, prefix

START_S = 30.0
_BACKLOG = 128
_TRIES = 3
"""A pool that was found may be about to end."""
_SERVER = "python_backend.stage.pool.server"


class NoPool(RuntimeError):
    """A pool that cannot be had; the message says why."""


class Connection:
    """The socket for jobs, and the connection that keeps the pool alive."""

    def __init__(self, connection: socket.socket, jobs: socket.socket) -> None:
        self._connection = connection
        self.jobs = jobs

    def close(self) -> None:
        """Let the pool end when nobody else needs it."""
        self._connection.close()
        self.jobs.close()


def connect(cores: int, work: str) -> Connection:
    """To this server's pool. `cores`: its processes, if it is started now; `work`: module:callable that
    prepares a frame there. Raises NoPool.
    """
    path = SHM / f"{prefix()}prepare"
    try:
        for _ in range(_TRIES):
            with locked(path):
                found = _connected(path)
                if found is None:
                    _start(path, cores, work)
                    found = _connected(path)
            if found is not None and (taken := _taken(found)) is not None:
                return taken
    except OSError as error:
        raise NoPool(f"the pool at {path}: {error.strerror or error}") from error
    raise NoPool("the pool ended while it started; its output says why")


def _connected(path: Path) -> socket.socket | None:
    """None where nobody listens."""
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_uid != os.geteuid() or not stat.S_ISSOCK(path.lstat().st_mode):
            raise NoPool(f"{path}: not a socket of this user")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(START_S)
            connection.connect(str(path))
            return connection
        except ConnectionRefusedError:
            connection.close()
        except BaseException:
            connection.close()
            raise
    return None


def _start(path: Path, cores: int, work: str) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        os.fchmod(listening.fileno(), 0o600)  # before it has a name
        listening.bind(str(path))
        listening.listen(_BACKLOG)
        command = [_interpreter(), "-m", _SERVER]
        pool = subprocess.Popen(
            [*command, "--cores", str(cores), "--work", work, "--name", str(path)],
            stdin=listening.fileno(),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
    threading.Thread(target=pool.wait, name="pool's end", daemon=True).start()


def _interpreter() -> str:
    """Triton's stub is a program with Python inside; there sys.executable is the python3 of its PATH."""
    found = sys.executable if sys.executable and Path(sys.executable).name.startswith("python") else None
    found = found or shutil.which("python3")
    if found is None:
        raise NoPool("no python3 on PATH to start it with")
    return found


def _taken(connection: socket.socket) -> Connection | None:
    """With the socket for jobs, which comes when the pool is ready; None where it ends instead."""
    descriptors: list[int] = []
    try:
        with contextlib.suppress(ConnectionResetError):
            _, descriptors, _, _ = socket.recv_fds(connection, 16, 1)
        if not descriptors:
            connection.close()
            return None
        jobs = socket.socket(fileno=descriptors[0])
        jobs.settimeout(START_S)
        return Connection(connection, jobs)
    except BaseException:
        connection.close()
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with the socket at this path. Raises NoPool, OSError."""
    path = lock_of(path)
    while (descriptor := _lock(path)) is None:
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def lock_of(path: Path) -> Path:
    """The lock file of a socket. Only who has it locked may remove it."""
    return path.with_name(f"{path.name}.lock")


def _lock(path: Path) -> int | None:
    """None where it was removed while we waited for it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise NoPool(f"{path}: not a file of this user")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
