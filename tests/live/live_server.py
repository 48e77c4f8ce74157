"""Real tritonservers for tests: free ports on loopback, a shared-memory prefix of their own, always ended."""

import contextlib
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tritonclient.grpc as triton

from ppipe.serving.binaries import find_tritonserver
from ppipe.serving.guard import children_of
from python_backend.wire.signing.keys import KEY_FILE_VARIABLE
from tests.live.handmade import free_ports

START_S = 200
HANGS_S = 100
"""After which one that has not loaded a single model is started once more."""


@dataclass
class LiveServer:
    """A tritonserver that runs, and what it says."""

    grpc: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)
    starts: int = 0
    started_s: float = 0.0

    def start(self) -> None:
        self.starts += 1
        self.started_s = time.monotonic()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def starved(self) -> bool:
        """Whether it ended as Triton does, seldom, when a very busy machine starts many stubs at once."""
        return self.process.poll() is not None and "interprocess::lock_exception" in self.said()

    def hangs(self) -> bool:
        """Whether none of its stubs has come up for long, as happens still more seldom."""
        late = time.monotonic() - self.started_s > HANGS_S
        return late and "successfully loaded" not in self.said()

    def doing(self) -> str:
        """What each thread of its processes is at, which its log does not say: a line each."""
        pids = [self.process.pid, *children_of(self.process.pid)]
        tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").glob("*")]
        return "\n".join(map(_doing, tasks))


@contextlib.contextmanager
def running(
    repository: Path,
    models: Sequence[str],
    log: Path,
    grpc_port: int = 0,
    options: Sequence[str] = (),
    first_on_path: Path | None = None,
) -> Iterator[LiveServer]:
    """A server of `models`, which may not be ready yet; the server goes on without those that do not load.

    first_on_path: where its stubs' python3 comes from, instead of this very environment.
    """
    http, free = free_ports(2)
    grpc_port = grpc_port or free
    prefix = f"ppipe_test_{os.getpid()}_{grpc_port}_"
    install = find_tritonserver()
    command = [
        *install.command(),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        "--exit-on-error=false",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        *options,
    ]
    server = LiveServer(
        grpc=f"127.0.0.1:{grpc_port}",
        command=command,
        environment=_environment(install.environment, first_on_path)
        | {KEY_FILE_VARIABLE: str(_ticket_key(log.parent))},
        log=log,
    )
    server.start()
    try:
        yield server
    finally:
        _end(server.process)
        for left in Path("/dev/shm").glob(f"{prefix}*"):
            left.unlink(missing_ok=True)


def _ticket_key(folder: Path) -> Path:
    """That all servers with their logs in this folder have."""
    path = folder / "ticket.key"
    if not path.exists():
        path.write_text("a key of these tests alone\n")
    return path


def _environment(wanted: Mapping[str, str], first_on_path: Path | None) -> dict[str, str]:
    environment = {**os.environ, **wanted}
    if first_on_path is not None:
        environment["PATH"] = f"{first_on_path}{os.pathsep}{environment['PATH']}"
    return environment


def wait_ready(server: LiveServer, models: Sequence[str]) -> None:
    """Raises AssertionError with the log where a model does not get ready."""
    deadline = time.monotonic() + START_S
    waiting = list(models)
    with triton.InferenceServerClient(server.grpc) as client:
        while waiting:
            if server.starts == 1 and (server.starved() or server.hangs()):
                with warnings.catch_warnings():
                    warnings.simplefilter("default")  # told, but no failure
                    warnings.warn(f"started again:\n{server.said()}{server.doing()}", stacklevel=2)
                _end(server.process)
                server.start()
            alive = server.process.poll() is None
            failed = "failed to load" in server.said()
            if failed or not alive or time.monotonic() > deadline:
                raise AssertionError(f"not ready: {waiting}\n{server.said()}")
            with contextlib.suppress(triton.InferenceServerException):
                waiting = [model for model in waiting if not client.is_model_ready(model, client_timeout=2)]
            time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server, and the stubs that it leaves behind when it did not end by itself."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _doing(task: Path) -> str:
    with contextlib.suppress(OSError):  # ended meanwhile
        name, _, fields = (task / "stat").read_text().partition(" (")[2].rpartition(") ")
        call = (task / "syscall").read_text().split()[0]
        return f"{task.parts[2]} {name}: {fields.split()[0]}, system call {call}, {fields.split()[11]} ticks"
    return f"{task.parts[2]}: ended"
