"""A tritonserver that is asked, through gRPC, to load one model after another from many repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from ppipe.serving.binaries import find_tritonserver
from ppipe.serving.processes import GuardedProcess
from tests.live.handmade import free_ports

START_S = 60.0
LOAD_S = 60.0
HANG_S = 8.0
SMALL = {"OPENBLAS_NUM_THREADS": "1"}
"""A stub that starts no threads starts faster."""
DEATH_S = 2.0
NO_ANSWER = ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")


class AskedServer:
    """One server and what it says of models."""

    def __init__(self, process: GuardedProcess, grpc_port: int, log: Path) -> None:
        self._process = process
        self._address = f"127.0.0.1:{grpc_port}"
        self._client = triton.InferenceServerClient(self._address)
        self._log = log
        self._wait()

    def refusal(self, model: str) -> str | None:
        """Why the server does not load `model`; None where it does. The model is unloaded again.

        May be called from many threads. Raises InferenceServerException where there is no answer at all.
        """
        with triton.InferenceServerClient(self._address) as client:
            try:
                client.load_model(model, client_timeout=LOAD_S)
            except InferenceServerException as error:
                if error.status() in NO_ANSWER:
                    raise
                return error.message() or str(error)
            client.unload_model(model, unload_dependents=True, client_timeout=LOAD_S)
            return None

    def refuses_or_dies(self, model: str) -> tuple[bool, bool]:
        """Whether the server refuses `model`, and whether it ends of it."""
        try:
            self._client.load_model(model, client_timeout=LOAD_S)
        except InferenceServerException:
            try:
                self._process.wait(DEATH_S)
            except subprocess.TimeoutExpired:
                return True, False
            return False, True
        return False, False

    def hangs_on(self, model: str) -> bool:
        """Whether loading `model` neither ends well nor badly in HANG_S, many times what loading takes.

        May be called from many threads.
        """
        with triton.InferenceServerClient(self._address) as client:
            try:
                client.load_model(model, client_timeout=HANG_S)
            except InferenceServerException as error:
                return error.status() == "StatusCode.DEADLINE_EXCEEDED"
        return False

    def alive(self) -> bool:
        """Whether it still answers."""
        try:
            return bool(self._client.is_server_live(client_timeout=5))
        except InferenceServerException:
            return False

    def close(self) -> None:
        """End the connection; the server is ended by who started it."""
        self._client.close()

    def _wait(self) -> None:
        end = time.monotonic() + START_S
        while not self.alive():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(f"the server did not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.1)


def loads_everything(repositories: Iterable[Path], log: Path, *, namespacing: bool = False) -> bool:
    """Whether a server that loads all models of these repositories becomes ready; else it ends."""
    options = ["--disable-auto-complete-config", *(["--model-namespacing=true"] if namespacing else [])]
    with _started(repositories, log, options) as (process, grpc):
        address, end = f"127.0.0.1:{grpc}", time.monotonic() + START_S
        with triton.InferenceServerClient(address) as client:
            while time.monotonic() < end:
                if process.poll() is not None:
                    return False
                try:
                    if client.is_server_ready(client_timeout=1):
                        return True
                except InferenceServerException:
                    pass
                time.sleep(0.05)
    raise RuntimeError(f"the server neither started nor ended:\n{log.read_text()[-3000:]}")


def place_python_library(file: Path) -> None:
    """Put the Python backend's library there, under another backend's name."""
    install = find_tritonserver()
    backends = install.backend_directory or install.server.parent.parent / "backends"
    file.unlink()
    shutil.copy(backends / "python" / "libtriton_python.so", file)


@contextmanager
def asked_server(repositories: Iterable[Path], log: Path, *, complete: bool = False) -> Iterator[AskedServer]:
    """A server of these repositories with nothing loaded; gone, with its shared memory, at the end.

    `complete`: it completes configurations, as Triton does unless told not to.
    """
    options = [
        "--model-control-mode=explicit",
        # A load that hangs keeps its thread for good; there are 4 unless told.
        "--model-load-thread-count=32",
        *(() if complete else ("--disable-auto-complete-config",)),
    ]
    with _started(repositories, log, options) as (process, grpc):
        server = AskedServer(process, grpc, log)
        try:
            yield server
        finally:
            server.close()


@contextmanager
def _started(
    repositories: Iterable[Path], log: Path, options: Iterable[str]
) -> Iterator[tuple[GuardedProcess, int]]:
    """A server's process and gRPC port; killed, and its shared memory taken away, at the end."""
    http, grpc = free_ports(2)
    prefix = f"ppipe_lint_{os.getpid()}_{grpc}_"
    install = find_tritonserver()
    command = [
        *install.command(),
        *(f"--model-repository={repository}" for repository in repositories),
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--backend-config=python,shm-default-byte-size=1048576",
        *options,
    ]
    process = GuardedProcess.start(
        command, log=log, environment=install.environment | SMALL, shm_prefixes=[prefix], grace_s=8
    )
    try:
        yield process, grpc
    finally:
        # At once: loads that hang would hold up an orderly end.
        process.kill()
        process.wait()
