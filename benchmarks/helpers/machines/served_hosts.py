"""`ppipe serve --host` on hosts that are network namespaces (machines.hosts), until the end of a context."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.helpers.machines.hosts import Host
from model_repo_generator.emulated import EmulatedModel, write_deployment
from planner.manifest import DeploymentManifest, ModelEntry
from ppipe.serving.guard import children_of
from ppipe.serving.probe import ModelProber, ProbeVerdict

START_S = 120
_STOP_S = 40
_PORTS = 24_000
_ROOT = Path(__file__).parents[3]


class HostsDoNotServe(RuntimeError):
    """A host whose `ppipe serve` ended, or models that do not answer; the message has what was said."""


@dataclass
class HostsServed:
    """A repository that is served, each host its own part."""

    repository: Path
    logs: Path
    manifest: DeploymentManifest
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Of the entry's gRPC."""
        return self.manifest.entry.grpc_address

    def start(self, host: Host, keys: Path | None = None) -> None:
        """Serve what is this host's. keys: others than all hosts have."""
        command = [sys.executable, "-m", "ppipe", "serve", str(self.repository), "--host", host.address]
        command.append("--old-triton")  # what setup installs, on hosts that only this benchmark reaches
        command += ["--work", str(self.logs / host.name)]
        command += ["--ticket-keys", str(keys or self.logs / "ticket.key")]
        with (self.logs / f"{host.name}.out").open("ab") as said:
            self.processes[host.name] = subprocess.Popen(
                host.command(command), stdout=said, stderr=said, cwd=_ROOT, start_new_session=True
            )

    def stop(self, *names: str) -> None:
        """As Ctrl-C does, on all of these at once."""
        processes = [self.processes.pop(name) for name in names]
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def wait_until_answering(self) -> None:
        """Until every model's dispatcher and the stages behind it have answered a frame.

        Raises HostsDoNotServe.
        """
        end_s = time.monotonic() + START_S
        with ModelProber(self.address) as prober:
            for entry in self.manifest.models:
                while (
                    probe := prober.ask(entry.dispatcher, 5.0, through=True)
                ).verdict is not ProbeVerdict.ANSWERS:
                    ended = [name for name, process in self.processes.items() if process.poll() is not None]
                    if ended or time.monotonic() > end_s:
                        raise HostsDoNotServe(f"{ended} ended; {probe.detail}\n{self.said()}")
                    time.sleep(0.2)

    def pids(self, host: str) -> list[int]:
        """The tritonservers of a host: grandchildren of its `ppipe serve`, below their guards."""
        guards = children_of(self.processes[host].pid)
        return [server for guard in guards for server in children_of(guard)]

    def metric(self, entry: ModelEntry, name: str) -> float:
        """Sum of a metric's series of one model."""
        url = self.manifest.metrics_url(entry)
        with urllib.request.urlopen(url, timeout=5) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"ppipe_{name}{{"))

    def said(self) -> str:
        """By all of them."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-2_000:]}" for path in self.logs.glob("*.out")
        )


@contextlib.contextmanager
def serve_on_hosts(
    root: Path, models: Sequence[EmulatedModel], made: Mapping[str, Host]
) -> Iterator[HostsServed]:
    """Emulated models; their servers, and the entry, are called as the hosts are."""
    addresses = {name: host.address for name, host in made.items()}
    manifest = write_deployment(root / "repository", models, _PORTS, hosts=addresses)
    with serve_repository(root / "repository", root / "logs", manifest, made) as served:
        yield served


@contextlib.contextmanager
def serve_repository(
    repository: Path, logs: Path, manifest: DeploymentManifest, made: Mapping[str, Host]
) -> Iterator[HostsServed]:
    """A repository whose servers have these hosts' addresses. Returns when frames are answered."""
    logs.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(logs / "ticket.key", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
    served = HostsServed(repository, logs, manifest)
    try:
        addresses = {server.host for server in manifest.every_server}
        for host in made.values():
            if host.address in addresses:  # a plan may leave a host without work
                served.start(host)
        served.wait_until_answering()
        yield served
    finally:
        served.stop(*served.processes)
