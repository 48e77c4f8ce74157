"""Hosts of their own for live tests: network namespaces, each running `ppipe serve --host`."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.helpers.hosts import Host, Link, hosts, why_not

__all__ = ["Fleet", "Host", "Link", "fleet", "hosts", "require_hosts"]

START_S = 120
ROOT = Path(__file__).parents[2]


def require_hosts() -> None:
    """Skip the test where this machine cannot make hosts."""
    if reason := why_not():
        pytest.skip(reason)


@dataclass
class Fleet:
    """`ppipe serve` on every host, of one repository."""

    repository: Path
    logs: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, host: Host) -> None:
        """Serve what is this host's."""
        command = [sys.executable, "-m", "ppipe", "serve", str(self.repository), "--host", host.address]
        command += ["--work", str(self.logs / host.name), "--ticket-keys", str(self.logs / "ticket.key")]
        with (self.logs / f"{host.name}.out").open("ab") as said:
            self.processes[host.name] = subprocess.Popen(
                host.command(command), stdout=said, stderr=said, cwd=ROOT, start_new_session=True
            )

    def stop(self, name: str) -> None:
        """As Ctrl-C does."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def said(self) -> str:
        """By all of them."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-2_000:]}" for path in self.logs.glob("*.out")
        )


@contextlib.contextmanager
def fleet(repository: Path, logs: Path, made: Mapping[str, Host]) -> Iterator[Fleet]:
    """The repository, served on these hosts until the end; they may not answer yet."""
    logs.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(logs / "ticket.key", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
    running = Fleet(repository, logs)
    try:
        for host in made.values():
            running.start(host)
        yield running
    finally:
        for name in list(running.processes):
            running.stop(name)


def wait_until_answered(
    running: Fleet, address: str, request: service_pb2.ModelInferRequest
) -> service_pb2.ModelInferResponse:
    """The first answer to a request that is sent until there is one."""
    end_s = time.monotonic() + START_S
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while True:
            try:
                return stub.ModelInfer(request, timeout=5)
            except grpc.RpcError as error:
                ended = [name for name, process in running.processes.items() if process.poll() is not None]
                if time.monotonic() > end_s or ended:
                    said = f"{ended} ended; {error.details()}\n{running.said()}"
                    raise AssertionError(said) from None
                time.sleep(0.2)
