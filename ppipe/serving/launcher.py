"""A served deployment: every tritonserver of a local deployment, or those of this host, running for as long
as the context is open.

Rules: ports are checked before anything starts; start() returns when every model of every server answers, or
raises with the reason of the first failure; leaving the context ends everything and leaves no process and no
shared memory.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from model_repo_generator.kubernetes.container.agent import others_serve
from planner import revision, serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ServerAddress
from ppipe.serving import ports
from ppipe.serving.binaries import TritonInstall, find_tritonserver
from ppipe.serving.devices import check_devices
from ppipe.serving.fleet_agents import FleetAgents
from ppipe.serving.polled_folder import PolledFolder
from ppipe.serving.release import check_release
from ppipe.serving.server_command import (
    server_command,
    server_environment,
    shm_prefixes,
    started_servers,
    wanted_ports,
)
from ppipe.serving.server_life import ServerPlan
from ppipe.serving.server_models import HereModels
from ppipe.serving.shm_room import check_room, shm_bytes_per_stub
from ppipe.serving.supervisor import ServerKeeper, ServerState, ServerStatus
from python_backend.dispatcher.entries.this_entry import ENTRY_VARIABLE
from python_backend.dispatcher.recording import FOLDER_VARIABLE, SIZE_VARIABLE
from python_backend.leases.opening import FOLDER_VARIABLE as LEASES_VARIABLE
from python_backend.wire.signing.keys import KEY_FILE_VARIABLE

LOADING_AT_ONCE = 2
ENTRY_GRACE_S = 8.0
"""Time to finish what clients wait for."""
STAGE_GRACE_S = 1.0
"""Nothing is under way once the entry has ended, and stubs with torch take seconds to leave by themselves."""
_TICK_S = 0.2


REVISIONS = "revisions"
"""Folder, in that of the logs, in which the entry's dispatchers are given other tables (planner.revision)."""
LEASES = "leases"
"""Folder there with the leases of several entries, where these are kept in files."""
TICKET_KEY = "ticket.key"
"""File of the run's key, in the folder of the logs."""


class ServeError(Exception):
    """A deployment that cannot be served; the message names the server and what it said."""


def load_manifest(repository: Path) -> DeploymentManifest:
    """The manifest in a generated repository. Raises ServeError, planner.serial.FormatError."""
    path = repository / MANIFEST_NAME
    if not path.is_file():
        raise ServeError(f"{repository}: no {MANIFEST_NAME} there; make a repository with ppipe generate")
    return serial.load(DeploymentManifest, path)


def make_ticket_key(folder: Path) -> Path:
    """A new key for this run, readable by us alone: stages then take work from this run's dispatchers
    only.
    """
    path = folder / TICKET_KEY
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32) + "\n")
    return path.resolve()


def shared_ticket_key(named: Path | None) -> Path:
    """The key file that all hosts of a deployment have: as named, or by the environment.

    Raises ServeError.
    """
    path = named or (Path(found) if (found := os.environ.get(KEY_FILE_VARIABLE)) else None)
    if path is None:
        raise ServeError(
            "hosts need one ticket key, so that stages take work from their dispatchers alone: make a file "
            "on one host (umask 077; openssl rand -hex 32 > ticket.key), copy it to the others, and name it "
            f"with --ticket-keys or {KEY_FILE_VARIABLE}"
        )
    if not path.is_file():
        raise ServeError(
            f"--ticket-keys: {path} is no file; expected one key of 16 characters or more per line"
        )
    return path.resolve()


def make_own(folder: Path) -> None:
    """A folder that is ours alone, with the name of this run in it and no table: a deployment that is started
    serves what was generated.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / revision.RUN_NAME).write_text(secrets.token_hex(16))


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
        record_mb: float = 0.0,
        host: str | None = None,
        ticket_keys: Path | None = None,
        old_triton: bool = False,
        fleet: Path | None = None,
    ) -> None:
        """`record_mb`: of events that each dispatcher writes down from its start on, beside the logs.
        `host`: start the servers of this host alone ('auto': of this machine), with `ticket_keys`, which all
        hosts have. `old_triton`: start releases with known holes where others reach them, too. `fleet`: the
        folder through which rollouts ask for changes, where they are made on another host.

        Raises NotLocal, NotHere, ServeError.
        """
        self._record_mb = record_mb
        self._old_triton = old_triton
        self._fleet = fleet
        self._agents: FleetAgents | None = None
        self.warning = ""
        """What is to be said of the servers that were started."""
        self.manifest = load_manifest(repository)
        self._repository = repository.resolve()
        self._logs = logs
        self._changed = changed
        self._servers = started_servers(self.manifest, host)
        self._entries = {entry.name for entry in self.manifest.entries}
        self._is_whole = host is None
        self._keys = None if host is None else shared_ticket_key(ticket_keys)
        self._prefixes = shm_prefixes(self._servers)
        self._loading = threading.Semaphore(loading_at_once)
        self._keepers: tuple[ServerKeeper, ...] = ()
        self._folders: dict[str, PolledFolder] = {}

    def __enter__(self) -> ServedDeployment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def servers(self) -> tuple[ServerAddress, ...]:
        """Those that are started here."""
        return self._servers

    @property
    def shared_keys(self) -> Path | None:
        """The file of ticket keys that all hosts have; None where all servers are here."""
        return self._keys

    @property
    def statuses(self) -> tuple[ServerStatus, ...]:
        """Every server as it is now, stages first."""
        return tuple(keeper.status for keeper in self._keepers)

    def start(self) -> None:
        """Start every server and wait until all models answer.

        Raises ServeError, ports.PortInUse, shm_room.ShmShort.
        """
        ports.check(wanted_ports(self.manifest, self._servers))
        check_room(self.manifest, self._servers)
        check_devices(self._servers)
        install = find_tritonserver()
        self.warning = check_release(install, self._servers, self._old_triton)
        self._logs.mkdir(parents=True, exist_ok=True)
        make_own(self.revisions)
        keys = self._keys or make_ticket_key(self._logs)
        plans = [self._plan(install, server, keys) for server in self._servers]
        self._keepers = tuple(
            ServerKeeper(plan, self._loading, self._changed, may_probe=self._may_probe) for plan in plans
        )
        if self._fleet is not None:
            servers = {
                name: HereModels(folder, self._logs / f"{name}.log") for name, folder in self._folders.items()
            }
            here = [name for name in servers if name in self._entries]
            others = [(e.host, e.grpc_port) for e in self.manifest.entries if e.name not in servers]
            groups = {server.name: server.group for server in self.manifest.every_server}
            joins = bool(here) and others_serve(self._fleet, groups[here[0]], others)
            self._agents = FleetAgents(self._fleet, servers, groups, here, self.revisions, joins)
            self._agents.start()
        for keeper in self._keepers:
            keeper.start()
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Returns when every server serves. Raises ServeError for the first that failed."""
        while any(status.state is not ServerState.SERVING for status in self.statuses):
            for status in self.statuses:
                if status.state is ServerState.FAILED:
                    raise ServeError(f"server {status.name!r}: {status.detail}")
                if status.fault:
                    raise ServeError(f"server {status.name!r}: {status.fault}")
            threading.Event().wait(_TICK_S)

    def _may_probe(self, name: str) -> bool:
        """The entry's models call the stages, so its first probe waits until these answer."""
        stages = [status for status in self.statuses if status.name not in self._entries]
        return name not in self._entries or all(status.has_served for status in stages)

    @property
    def revisions(self) -> Path:
        """Where the entry's dispatchers look for another table to serve by, and say which they serve."""
        return self._logs.resolve() / REVISIONS

    def load(self, server: str, model: str) -> None:
        """Have a server load a model as it is in the repository now, again if it has it; within POLL_S.

        Raises KeyError, NoSuchModel.
        """
        self._folders[server].add(model)

    def unload(self, server: str, model: str) -> None:
        """Have a server unload a model, within POLL_S. Raises KeyError."""
        self._folders[server].remove(model)

    def renew(self) -> None:
        """Have all servers find manifests and addresses as they are in the repository now."""
        for folder in self._folders.values():
            folder.renew()

    def hold(self, server: str) -> None:
        """Once this server has ended, leave it ended until `release`. Raises KeyError."""
        self._keeper(server).hold()

    def release(self, server: str) -> None:
        """Start it again, if it was held. Raises KeyError."""
        self._keeper(server).release()

    def _keeper(self, server: str) -> ServerKeeper:
        for keeper in self._keepers:
            if keeper.status.name == server:
                return keeper
        raise KeyError(f"no server {server!r} was started here")

    def stop(self) -> None:
        """End everything: entries first, so that no stage goes while frames are on their way."""
        if self._agents is not None:
            self._agents.stop()
            self._agents = None
        entries = [keeper for keeper in self._keepers if keeper.status.name in self._entries]
        for keepers in (entries, self._keepers):
            for keeper in keepers:
                keeper.stop()
            for keeper in keepers:
                keeper.join()
        self._keepers = ()

    def _plan(self, install: TritonInstall, server: ServerAddress, keys: Path) -> ServerPlan:
        prefix = self._prefixes[server.name]
        tls = self.manifest.tls_of(server)
        room = shm_bytes_per_stub(self._servers)
        folder = self._folders[server.name] = PolledFolder(
            self._logs / "models" / server.name, self._repository, server.repository
        )
        command = server_command(install, folder.path, server, prefix, room, tls)
        doors = self.manifest.doors
        return ServerPlan(
            name=server.name,
            address=server.grpc_address,
            models=server.models,
            command=tuple(command),
            environment=server_environment(install, prefix, keys, server.devices)
            | {FOLDER_VARIABLE: str(self._logs.resolve()), SIZE_VARIABLE: f"{self._record_mb:g}"}
            | self._entry_environment(server),
            log=self._logs / f"{server.name}.log",
            shm_prefix=prefix,
            grace_s=ENTRY_GRACE_S if server.name in self._entries else STAGE_GRACE_S,
            dispatchers=tuple(model for model in server.models if model in doors),
            tls=tls,
            folder=folder,
            # Where other hosts have stages, they need not be there yet, nor all of them ever.
            through=self._is_whole,
        )

    def _entry_environment(self, server: ServerAddress) -> dict[str, str]:
        """What an entry server is told beside: where other tables come; of several, which one it is, and
        where leases lie in files.
        """
        if server.name not in self._entries:
            return {}
        told = {revision.FOLDER_VARIABLE: str(self.revisions)}
        if len(self._entries) > 1:
            told |= {ENTRY_VARIABLE: server.name, LEASES_VARIABLE: str(self._logs.resolve() / LEASES)}
        return told
