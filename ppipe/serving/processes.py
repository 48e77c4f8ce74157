"""Starts and ends guarded processes, and looks at what runs below them.

Rules: every process of ours has a guard (ppipe.serving.guard) in a session of its own, so that a Ctrl-C in
the terminal reaches only us and we end the others in order; and no guarded process outlives us.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppipe.serving import guard
from ppipe.serving.logs import open_log


@dataclass(frozen=True)
class StubProcess:
    """A process of Triton's Python backend: runs the one instance of `model`, whose folder is named
    like it.
    """

    model: str
    pid: int


class GuardedProcess:
    """A command under its own guard. Not thread-safe but for `poll`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        shm_prefixes: Iterable[str] = (),
        grace_s: float = guard.DEFAULT_GRACE_S,
    ) -> GuardedProcess:
        """Start `command`; its output is appended to `log`, `environment` is set on top of ours."""
        options = [f"--shm={prefix}" for prefix in shm_prefixes] + [f"--grace={grace_s}"]
        with open_log(log) as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, *options, "--", *command],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process)

    @property
    def guard_pid(self) -> int:
        """Process id of the guard."""
        return self._process.pid

    @property
    def pid(self) -> int | None:
        """Process id of the command itself; None before it runs and after it ended."""
        return next(iter(guard.children_of(self._process.pid)), None)

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def request_stop(self) -> None:
        """Ask it to end; its guard sees to it that it does."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once, with all that descends from it."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        status = self._process.wait(timeout_s)
        self.kill()
        return status

    def stop(self) -> int:
        """End it in order, and have nothing left."""
        self.request_stop()
        return self.wait()


class Endings:
    """Tells within moments that a process has ended, whoever started it. Used by one thread."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._names: dict[int, str] = {}

    def watch(self, name: str, pid: int) -> None:
        """Tell of the end of process `pid` under `name`; one that is gone is told of at once."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            descriptor, other_end = os.pipe()
            os.close(other_end)  # always ready, as a pidfd of an ended process is
        self._names[descriptor] = name
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout_s: float) -> list[str]:
        """Names of those that have ended, which are watched no longer; empty when the time is over."""
        ended = [descriptor for descriptor, _ in self._poll.poll(timeout_s * 1000)]
        return [self._drop(descriptor) for descriptor in ended]

    def close(self) -> None:
        """Watch nothing more."""
        for descriptor in list(self._names):
            self._drop(descriptor)

    def _drop(self, descriptor: int) -> str:
        self._poll.unregister(descriptor)
        os.close(descriptor)
        return self._names.pop(descriptor)


def stubs_of(server_pid: int) -> dict[str, StubProcess]:
    """The living Python-backend stubs of a tritonserver, by model folder."""
    found = {}
    for pid in guard.children_of(server_pid):
        model = _model_of_stub(pid)
        if model is not None:
            found[model] = StubProcess(model=model, pid=pid)
    return found


def stub_folders() -> set[str]:
    """The model folders that the living stubs of all tritonservers of this host run."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return {str(folder) for pid in pids if (folder := _folder_of_stub(pid)) is not None}


def _model_of_stub(pid: int) -> str | None:
    folder = _folder_of_stub(pid)
    return None if folder is None else folder.name


def _folder_of_stub(pid: int) -> Path | None:
    """The model folder that a stub was started for; None for other processes and for dead ones (no command
    line).
    """
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if len(arguments) < 2 or not arguments[0].endswith(b"triton_python_backend_stub"):
        return None
    # <stub> <repository>/<model>/<version>/model.py ...
    return Path(os.fsdecode(arguments[1])).parent.parent
