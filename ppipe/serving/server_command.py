"""The command line of each tritonserver of a local deployment, and the ports that it will take.

Every flag is here for a reason found by running the server; see the comments. Addresses are bound as the
manifest says them, which for a local deployment is loopback.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from model_repo_generator.control import NAMED_CALLERS, closed_apis
from planner.addresses import address_flag
from planner.cluster import EntryServer, Server
from planner.deployment import Deployment
from planner.manifest import DeploymentManifest, ServerAddress, TlsFiles
from ppipe.serving.binaries import TritonInstall
from ppipe.serving.here import hosts_here
from ppipe.serving.polled_folder import POLL_S
from ppipe.serving.ports import LOOPBACK, PortUse
from python_backend.wire.signing.keys import KEY_FILE_VARIABLE

SHM_PREFIX_VARIABLE = "PPIPE_SHM_PREFIX"
"""Environment variable with the prefix that a server's own Python models put before their shared-memory
names.
"""
EXIT_TIMEOUT_S = 5
_PORT_FIELDS = ("http_port", "grpc_port", "metrics_port")


class NotLocal(Exception):
    """A deployment with servers on other hosts, which cannot be started from here."""


def started_servers(manifest: DeploymentManifest, host: str | None = None) -> tuple[ServerAddress, ...]:
    """The servers to start, stages first and entries last. A server without models is left out.

    host: only those of this host ('auto': of this machine); None: all, which have to be on loopback.
    Raises NotLocal, NotHere.
    """
    servers = tuple(server for server in (*manifest.servers, *manifest.entries) if server.models)
    if host is not None:
        here = hosts_here((server.host for server in servers), host)
        return tuple(server for server in servers if server.host in here)
    for server in servers:
        _require_local(server)
    return servers


def wanted_ports(manifest: DeploymentManifest, servers: Sequence[ServerAddress]) -> list[PortUse]:
    """Every port that these servers and their dispatchers bind."""
    uses = [
        PortUse(owner=server.name, field=field, host=server.host, port=getattr(server, field))
        for server in servers
        for field in _PORT_FIELDS
    ]
    uses += [
        PortUse(owner=entry.server.name, field=field, host=entry.server.host, port=port, udp=udp)
        for entry in manifest.entry_ports
        if entry.server in servers
        for model, port in entry.feedback_ports.items()
        for field, udp in _dispatcher_uses(model)
    ]
    uses += [
        PortUse(owner=entry.name, field=f"metrics port of cascade {name!r}", host=entry.host, port=port)
        for entry in manifest.entries
        if entry in servers
        for name, port in manifest.cascade_ports(entry.name).items()
    ]
    return uses


def cluster_ports(deployment: Deployment) -> list[PortUse]:
    """Every port that a deployment file gives out, before anything is planned. Raises NotLocal."""
    cluster = deployment.to_cluster()
    servers: tuple[EntryServer | Server, ...] = (*cluster.entries, *cluster.servers)
    for server in servers:
        _require_local(server)
    uses = [
        PortUse(owner=server.name, field=field, host=server.host, port=getattr(server, field))
        for server in servers
        for field in _PORT_FIELDS
    ]
    return uses + [
        PortUse(owner=entry.name, field=field, host=entry.host, port=entry.feedback_port + index, udp=udp)
        for entry in cluster.entries
        for index, name in enumerate(_served_names(deployment))
        for field, udp in _dispatcher_uses(name)
    ]


def _served_names(deployment: Deployment) -> list[str]:
    """Models, then cascades, in the order of their ports."""
    models = [model.name for model in deployment.models]
    return models + [cascade.name for cascade in deployment.cascades]


def _dispatcher_uses(model: str) -> tuple[tuple[str, bool], ...]:
    """(what for, whether UDP): a dispatcher takes notices and shows its metrics on one number."""
    return (f"feedback_port of model {model!r}", True), (
        f"feedback_port of model {model!r}, for metrics",
        False,
    )


def shm_prefixes(servers: Sequence[ServerAddress]) -> dict[str, str]:
    """A shared-memory prefix for each server: no other server and no other run has the same."""
    run = f"ppipe_{os.getpid()}_{os.urandom(4).hex()}"
    # The last character keeps server 1 from owning what is server 10's.
    return {server.name: f"{run}_{index}_" for index, server in enumerate(servers)}


def server_command(
    install: TritonInstall,
    folder: Path,
    server: ServerAddress,
    shm_prefix: str,
    shm_bytes: int,
    tls: TlsFiles | None = None,
) -> list[str]:
    """The whole command line of one server; `folder`: that it polls. tls: of a stage server."""
    return [
        *install.command(),
        f"--model-repository={folder}",
        # Who can load a model through the API can have his own code run: here nobody can.
        "--model-control-mode=poll",
        f"--repository-poll-secs={POLL_S}",
        *closed_apis(),
        *NAMED_CALLERS,
        # Otherwise every load first starts a throw-away stub.
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        address_flag("http", LOOPBACK if tls else server.host),
        f"--http-port={server.http_port}",
        address_flag("grpc", server.host),
        f"--grpc-port={server.grpc_port}",
        *(tls.server_flags() if tls else []),
        address_flag("metrics", server.host),
        f"--metrics-port={server.metrics_port}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        # Grown while serving, the region is mapped anew; so take enough at once.
        f"--backend-config=python,shm-default-byte-size={shm_bytes}",
    ]


def server_environment(
    install: TritonInstall, shm_prefix: str, ticket_keys: Path, devices: Sequence[str] = ()
) -> dict[str, str]:
    """What to set on top of our own environment. devices: the GPUs that the server may see."""
    return {
        **install.environment,
        # Numbers as nvidia-smi has them: CUDA's own order puts the fastest first.
        **({"CUDA_VISIBLE_DEVICES": ",".join(devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if devices else {}),
        SHM_PREFIX_VARIABLE: shm_prefix,
        KEY_FILE_VARIABLE: str(ticket_keys),
    }


def _require_local(server: EntryServer | Server | ServerAddress) -> None:
    if not is_loopback(server.host):
        raise NotLocal(
            f"server {server.name!r}: host {server.host!r} is not this machine; "
            "without --host, servers are started here on loopback addresses only (127.0.0.1, localhost, ::1)"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
