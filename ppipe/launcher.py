"""A served deployment: every tritonserver of a local deployment, running for as long as the context is open.

Rules: ports are checked before anything starts; start() returns when every model of every server answers, or
raises with the reason of the first failure; leaving the context ends everything and leaves no process and no
shared memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ServerAddress
from ppipe import ports
from ppipe.binaries import TritonInstall, find_tritonserver
from ppipe.server_command import (
    server_command,
    server_environment,
    shm_bytes_per_stub,
    shm_prefixes,
    started_servers,
    wanted_ports,
)
from ppipe.server_life import ServerPlan
from ppipe.supervisor import ServerKeeper, ServerState, ServerStatus

LOADING_AT_ONCE = 2
_TICK_S = 0.2


class ServeError(Exception):
    """A deployment that cannot be served; the message names the server and what it said."""


def load_manifest(repository: Path) -> DeploymentManifest:
    """The manifest in a generated repository. Raises ServeError, planner.serial.FormatError."""
    path = repository / MANIFEST_NAME
    if not path.is_file():
        raise ServeError(f"{repository}: no {MANIFEST_NAME} there; make a repository with ppipe generate")
    return serial.load(DeploymentManifest, path)


class ServedDeployment:
    """Servers of one manifest. `changed` is called, from any thread, with each change of a server's
    status.
    """

    def __init__(
        self,
        repository: Path,
        logs: Path,
        *,
        changed: Callable[[ServerStatus], None] = lambda status: None,
        loading_at_once: int = LOADING_AT_ONCE,
    ) -> None:
        self.manifest = load_manifest(repository)
        self._repository = repository.resolve()
        self._logs = logs
        self._changed = changed
        self._servers = started_servers(self.manifest)
        self._prefixes = shm_prefixes(self._servers)
        self._loading = threading.Semaphore(loading_at_once)
        self._keepers: tuple[ServerKeeper, ...] = ()

    def __enter__(self) -> ServedDeployment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def statuses(self) -> tuple[ServerStatus, ...]:
        """Every server as it is now, stages first."""
        return tuple(keeper.status for keeper in self._keepers)

    def start(self) -> None:
        """Start every server and wait until all models answer. Raises ServeError, ports.PortInUse."""
        ports.check(wanted_ports(self.manifest))
        install = find_tritonserver()
        self._logs.mkdir(parents=True, exist_ok=True)
        plans = [self._plan(install, server) for server in self._servers]
        self._keepers = tuple(ServerKeeper(plan, self._loading, self._changed) for plan in plans)
        for keeper in self._keepers:
            keeper.start()
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Returns when every server serves. Raises ServeError for the first that failed."""
        while any(status.state is not ServerState.SERVING for status in self.statuses):
            for status in self.statuses:
                if status.state is ServerState.FAILED:
                    raise ServeError(f"server {status.name!r}: {status.detail}")
            threading.Event().wait(_TICK_S)

    def stop(self) -> None:
        """End everything: the entry first, so that no stage goes while frames are on their way."""
        for keeper in reversed(self._keepers):
            keeper.stop()
        for keeper in reversed(self._keepers):
            keeper.join()
        self._keepers = ()

    def _plan(self, install: TritonInstall, server: ServerAddress) -> ServerPlan:
        prefix = self._prefixes[server.name]
        command = server_command(install, self._repository, server, prefix, shm_bytes_per_stub(self._servers))
        dispatchers = {model.dispatcher for model in self.manifest.models}
        return ServerPlan(
            name=server.name,
            address=f"{server.host}:{server.grpc_port}",
            models=server.models,
            command=tuple(command),
            environment=server_environment(install, prefix),
            log=self._logs / f"{server.name}.log",
            shm_prefix=prefix,
            dispatchers=tuple(model for model in server.models if model in dispatchers),
        )
