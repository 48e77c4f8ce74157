"""deployment.json: what servers of one host share, and must not.

Rules
- Every port of a host has one use, and every GPU one server.
- Servers of one host that compute on GPUs say which (`devices`): without, each takes the first ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import make_finding
from planner.addresses import same_host
from planner.cluster import Executor
from planner.manifest import DeploymentManifest, ServerAddress

_PORTS = ("http_port", "grpc_port", "metrics_port")


def check(manifest: DeploymentManifest, shown: str) -> Iterator[Finding]:
    """`shown`: the manifest's path, for messages."""
    servers = [server for server in manifest.every_server if server.models]
    hosts = list(dict.fromkeys(same_host(server.host) for server in servers))
    on_gpus = _on_gpus(manifest)
    for host in hosts:
        here = [server for server in servers if same_host(server.host) == host]
        yield from _ports(here, manifest, shown)
        yield from _devices([server for server in here if server.name in on_gpus], shown)


def _on_gpus(manifest: DeploymentManifest) -> set[str]:
    """Names of the servers on which some worker computes on a GPU."""
    return {
        worker.server
        for entry in manifest.models
        for place, worker in entry.served.workers()
        if entry.programs[place.pipeline][place.stage].executor is Executor.CUDA
    }


def _ports(here: Sequence[ServerAddress], manifest: DeploymentManifest, shown: str) -> Iterator[Finding]:
    owners: dict[int, str] = {}
    uses = [
        (getattr(server, field), f"{field} of server {server.name!r}") for server in here for field in _PORTS
    ]
    called = {entry.model for entry in manifest.models if entry.dispatcher}
    uses += [
        (port, f"feedback_port of model {model!r}" + (f" at {at.server.name!r}" if manifest.leases else ""))
        for at in manifest.entry_ports
        if at.server in here
        for model, port in at.feedback_ports.items()
        if model in called
    ]
    uses += [
        (port, f"metrics_port of cascade {name!r}" + (f" at {at.name!r}" if manifest.leases else ""))
        for at in manifest.entries
        if at in here
        for name, port in manifest.cascade_ports(at.name).items()
    ]
    for port, use in uses:
        earlier = owners.setdefault(port, use)
        if earlier != use:
            said = f"port {port} of {here[0].host} is {earlier} and {use}"
            yield make_finding("host-port", "", shown, 0, "servers", said)


def _devices(here: Sequence[ServerAddress], shown: str) -> Iterator[Finding]:
    if len(here) < 2:
        return
    owners: dict[str, str] = {}
    for server in here:
        if not server.devices:
            said = (
                f"{len(here)} servers of {server.host} compute on GPUs, and server {server.name!r} does not "
                "say on which: it takes the first ones, as others do; generate again, or state `devices`"
            )
            yield make_finding("host-device", "", shown, 0, "servers.devices", said)
        for device in server.devices:
            earlier = owners.setdefault(device, server.name)
            if earlier != server.name:
                said = f"device {device} of {server.host} is of servers {earlier!r} and {server.name!r}"
                yield make_finding("host-device", "", shown, 0, "servers.devices", said)
