"""A docker compose file for one host: the same containers as in a cluster, without Kubernetes.

Two kinds of address work, and deployment.json says which one it is:
- every server on a loopback address: containers share the host's network and one /dev/shm, so that hops
  between them may move tensors through shared memory;
- every server a host name of its own: containers have a network of their own with those names, and hops are
  gRPC.

Rules
- A '$' in any text is doubled: compose would take it for a variable.
- GPUs are given out in the order of the servers, unless `gpus` says otherwise: in each container they count
  from 0.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from model_repo_generator.kubernetes.addresses import check_ports
from model_repo_generator.kubernetes.fleet import Fleet, ServerGroup, ports_of, read_fleet
from model_repo_generator.kubernetes.launch import (
    FLEET_FOLDER,
    LAUNCH_FOLDER,
    LEASES_FOLDER,
    REPOSITORY_FOLDER,
    SHM_PREFIX,
    TICKET_FILE,
    exit_timeout_s,
    launch_command,
    launch_files,
    probe_command,
    server_environment,
    server_settings,
)
from model_repo_generator.kubernetes.memory import MIB, group_memory_bytes, group_shm_bytes
from model_repo_generator.kubernetes.names import BundleFault, check_distinct, dns_label, is_dns_label
from model_repo_generator.kubernetes.operator import (
    OPERATOR,
    OPERATOR_STOP_S,
    REPOSITORY,
    SHARED,
    TOLD,
    WORK_FOLDER,
)
from model_repo_generator.kubernetes.operator import command as operator_command
from model_repo_generator.kubernetes.options import Image, read_plain, validated
from model_repo_generator.kubernetes.pods import KILL_AFTER_S
from model_repo_generator.kubernetes.tls import etcd_paths, tls_paths
from model_repo_generator.yaml_text import dump
from planner.addresses import authority
from planner.deployment import Deployment
from planner.manifest import DeploymentManifest, ServerAddress
from planner.plan import Plan

Plain = dict[str, Any]
COMPOSE_FILE = "compose.yaml"
SHM_HOLDER = "shm"
"""Owns the common /dev/shm and does nothing else: a server's restart would leave the others apart."""
LAUNCH = "launch"


def _host_path(value: str) -> str:
    """What compose takes for a path; anything else would be the name of a volume."""
    if not value.startswith(("./", "../", "/")) or any(ord(character) < 32 for character in value):
        raise ValueError(f"{value!r} is not a path that begins with ./, ../ or /")
    return value


HostPath = Annotated[str, AfterValidator(_host_path)]


class ComposeOperator(BaseModel):
    """`ppipe operate` in a container. `work`: the deployment's working folder, of user `user_id`:
    deployment.yaml, profile.json, plan.json and repository/ lie in it. image: holds this project with its
    planner; None: the servers'.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    work: HostPath
    image: Image | None = None
    memory_mib: int = Field(default=2048, ge=512, le=1 << 20)


class ComposeOptions(BaseModel):
    """Choices for one host. Paths are relative to the compose file, or absolute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: Image
    repository: HostPath = "./repository"
    ticket_keys: HostPath = "./ticket-keys"
    """File with one key a line; each of at least 16 characters."""
    triton_version: str | None = None
    old_triton: bool = False
    gpus: Mapping[str, tuple[str, ...]] = {}
    """Per server, the host's GPU ids or UUIDs."""
    in_flight: int = Field(default=3, ge=1, le=64)
    shm_default_mib: Annotated[int, Field(ge=1, le=4096)] = 32
    start_timeout_s: int = Field(default=600, ge=30, le=7200)
    user_id: int = Field(default=1000, ge=1, le=1 << 30)
    """Of all processes; must be able to read the repository and the ticket keys, and needs no name."""
    memory_per_stub_mib: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    pids: int = Field(default=4096, ge=64, le=1 << 22)
    log_mib: int = Field(default=32, ge=1, le=4096)
    """Of each of the three log files that a container keeps."""
    leases: HostPath = "./leases"
    """Folder of several entries that keep leases in a file, of user `user_id`."""
    operator: ComposeOperator | None = None
    """None: plans are changed by generating and starting anew."""
    listen: str = "127.0.0.1"
    """The host's address that clients reach entries on, where servers have a network of their own. Several
    entries have ports of their own.
    """


def load_compose_options(path: Path | None, **overrides: Any) -> ComposeOptions:
    """The options in a YAML file, if there is one, with fields set over it. Raises BundleFault."""
    plain = {} if path is None else read_plain(path)
    return validated(ComposeOptions, {**plain, **overrides}, "options" if path is None else str(path))


def render_compose(
    manifest: DeploymentManifest, deployment: Deployment, plan: Plan, options: ComposeOptions
) -> dict[str, str]:
    """{path: text}: compose.yaml and the launch files. Raises BundleFault, NameFault."""
    fleet = read_fleet(manifest, deployment, plan)
    check_ports(fleet)
    _check_leases(fleet)
    shared = _shares_host(fleet)
    servers = {_service_name(server): (group, server) for group, server in _servers(fleet)}
    owners = [(_service_name(server), f"server {server.name}") for server in fleet.servers]
    check_distinct([(SHM_HOLDER, "the holder of /dev/shm"), (OPERATOR, "the operator"), *owners])
    _check_operator(options)
    project = dns_label(manifest.deployment, "deployment")
    gpus = _gpus(fleet, options, shared)
    document: Plain = {"name": project, "services": {}, "secrets": {"tickets": {"file": options.ticket_keys}}}
    for name, (group, server) in servers.items():
        service = _service(fleet, group, server, options, shared, gpus[server.name])
        if not shared:
            service |= {
                "hostname": server.host,
                "networks": {"servers": {"aliases": [server.host]}},
                "shm_size": _size(_shm(fleet, group, server, options)),
            }
            if group.is_entry:
                address = f"[{options.listen}]" if ":" in options.listen else options.listen
                service["ports"] = [f"{address}:{port}:{port}" for port in ports_of(server)[:2]]
        else:
            service |= {"network_mode": "host", "ipc": f"service:{SHM_HOLDER}"}
        document["services"][name] = service
    if options.operator is not None:
        document["services"][OPERATOR] = _operator(fleet, options, options.operator, shared)
    if shared:
        document["services"][SHM_HOLDER] = _shm_holder(fleet, options)
    else:
        document["networks"] = {"servers": {}}
    settings = {
        name: server_settings(
            fleet,
            group,
            server,
            bind=server.host if shared else None,
            shm_default_bytes=options.shm_default_mib * MIB,
            triton_version=options.triton_version or "",
            old_triton=options.old_triton,
            shm_prefix=_prefix(name) if shared else SHM_PREFIX,
            operated=options.operator is not None,
            leases=LEASES_FOLDER if _has_lease_file(fleet) else "",
        )
        for name, (group, server) in servers.items()
    }
    files = {f"{LAUNCH}/{name}": text for name, text in launch_files(settings).items()}
    return {COMPOSE_FILE: dump([_escaped(document)]), **files}


def _servers(fleet: Fleet) -> Iterator[tuple[ServerGroup, ServerAddress]]:
    for group in fleet.groups:
        for server in group.servers:
            yield group, server


def _shares_host(fleet: Fleet) -> bool:
    """True: all on loopback. Raises BundleFault where compose could not give every server its address."""
    local = {server.name: _is_loopback(server.host) for server in fleet.servers}
    if all(local.values()):
        check_distinct(
            (authority(server.host, port), f"server {server.name}")
            for server in fleet.servers
            for port in (server.http_port, server.grpc_port, server.metrics_port)
        )
        return True
    for server in fleet.servers:
        if local[server.name] or not is_dns_label(server.host):
            raise BundleFault(
                f"server {server.name}: host {server.host!r}; compose needs loopback addresses for all "
                "servers, or for each a host name of its own (lower-case letters, digits and '-', a letter "
                "first)"
            )
    check_distinct((server.host, f"server {server.name}") for server in fleet.servers)
    published: dict[int, str] = {}
    for server in fleet.manifest.entries:
        for port in ports_of(server)[:2]:
            other = published.setdefault(port, server.name)
            if other != server.name:
                raise BundleFault(
                    f"entries {other} and {server.name}: both would publish port {port} on this host; give "
                    "each ports of its own"
                )
    return False


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _service(
    fleet: Fleet,
    group: ServerGroup,
    server: ServerAddress,
    options: ComposeOptions,
    shared: bool,
    gpus: tuple[str, ...],
) -> Plain:
    name = _service_name(server)
    environment = {**server_environment(), "PPIPE_SERVER": name}
    if shared:
        environment["PPIPE_SHM_PREFIX"] = _prefix(name)
    service: Plain = {
        "image": options.image,
        "command": launch_command(),
        "environment": environment,
        "volumes": [
            {"type": "bind", "source": options.repository, "target": REPOSITORY_FOLDER, "read_only": True},
            {"type": "bind", "source": f"./{LAUNCH}", "target": LAUNCH_FOLDER, "read_only": True},
            *(_fleet_binds(options.operator, group) if options.operator else []),
            *(
                [
                    {
                        "type": "bind",
                        "source": options.leases,
                        "target": LEASES_FOLDER,
                        "bind": {"create_host_path": False},  # docker would make it root's
                    }
                ]
                if group.is_entry and _has_lease_file(fleet)
                else []
            ),
            *_file_binds(tls_paths(fleet.manifest)),
            *(_file_binds(etcd_paths(fleet.manifest)) if group.is_entry else ()),
        ],
        "secrets": [{"source": "tickets", "target": TICKET_FILE}],
        "healthcheck": {
            "test": ["CMD", *probe_command()],
            "interval": "10s",
            "timeout": "30s",
            "retries": 3,
            "start_period": f"{options.start_timeout_s}s",
        },
        **_confined(
            options, exit_timeout_s(fleet.manifest) + KILL_AFTER_S, _memory(fleet, group, server, options)
        ),
    }
    if gpus:
        device = {"driver": "nvidia", "device_ids": list(gpus), "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service


def _has_lease_file(fleet: Fleet) -> bool:
    return fleet.manifest.leases is not None and fleet.manifest.leases.kind == "file"


def _check_leases(fleet: Fleet) -> None:
    """Raises BundleFault."""
    if fleet.manifest.leases is not None and fleet.manifest.leases.kind == "kubernetes":
        raise BundleFault(
            "leases: kind is 'kubernetes', and containers of one host have no cluster; leave 'leases' out "
            "for a file that the entries share, or give etcd with its endpoints"
        )


def _fleet_binds(operator: ComposeOperator, group: ServerGroup) -> list[Plain]:
    """The folder through which servers are asked, to read; and to write what servers of this group tell. One
    that is not there is an error: docker would make it root's.
    """
    shared, told = f"{operator.work}/{SHARED}", f"{TOLD}/{group.group}"
    there = {"create_host_path": False}
    return [
        {"type": "bind", "source": shared, "target": FLEET_FOLDER, "read_only": True, "bind": there},
        {
            "type": "bind",
            "source": f"{shared}/{told}",
            "target": f"{FLEET_FOLDER}/{told}",
            "bind": there,
        },
    ]


def _check_operator(options: ComposeOptions) -> None:
    """Raises BundleFault."""
    if options.operator is None:
        return
    wanted = f"{options.operator.work}/{REPOSITORY}"
    if options.repository != wanted:
        raise BundleFault(
            f"operator.work: {options.operator.work!r}, so repository must be {wanted!r}, not "
            f"{options.repository!r}: the operator adds to the repository in its working folder"
        )


def _operator(fleet: Fleet, options: ComposeOptions, operator: ComposeOperator, shared: bool) -> Plain:
    """It may write its working folder, and calls servers; nobody calls it."""
    return {
        "image": operator.image or options.image,
        "command": operator_command(),
        "environment": {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"},
        "volumes": [
            {"type": "bind", "source": operator.work, "target": WORK_FOLDER},
            *_file_binds(tls_paths(fleet.manifest)),
        ],
        **({"network_mode": "host"} if shared else {"networks": ["servers"]}),
        **_confined(options, OPERATOR_STOP_S, operator.memory_mib * MIB),
    }


def _file_binds(paths: Mapping[str, str]) -> Iterator[Plain]:
    for path in paths.values():
        yield {"type": "bind", "source": path, "target": path, "read_only": True}


def _confined(options: ComposeOptions, stop_s: int, memory: int) -> Plain:
    """How a container that runs our code is ended, and what it may take and do. memory: bytes."""
    return {
        "restart": "unless-stopped",
        "stop_grace_period": f"{stop_s}s",
        "user": f"{options.user_id}:{options.user_id}",
        "mem_limit": _size(memory),
        "pids_limit": options.pids,
        "logging": _logging(options),
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }


def _shm_holder(fleet: Fleet, options: ComposeOptions) -> Plain:
    total = sum(_shm(fleet, group, server, options) for group, server in _servers(fleet))
    return {
        "image": options.image,
        "entrypoint": ["sleep"],
        "command": ["infinity"],
        "init": True,
        "network_mode": "none",
        "ipc": "shareable",
        "shm_size": _size(total),
        "restart": "unless-stopped",
        "user": f"{options.user_id}:{options.user_id}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 64,
        "logging": _logging(options),
    }


def _logging(options: ComposeOptions) -> Plain:
    return {"driver": "json-file", "options": {"max-size": f"{options.log_mib}m", "max-file": "3"}}


def _memory(fleet: Fleet, group: ServerGroup, server: ServerAddress, options: ComposeOptions) -> int:
    """The most that a container may take, its /dev/shm included."""
    shm, any_plan = _shm(fleet, group, server, options), options.operator is not None
    return group_memory_bytes(fleet, group, shm, options.memory_per_stub_mib, any_plan)


def _gpus(fleet: Fleet, options: ComposeOptions, shared: bool) -> dict[str, tuple[str, ...]]:
    """Per server the host's GPUs. Raises BundleFault."""
    names = {server.name for server in fleet.servers}
    for unknown in sorted(set(options.gpus) - names):
        raise BundleFault(f"gpus: no server {unknown!r}; there are {', '.join(sorted(names))}")
    given: dict[str, tuple[str, ...]] = {}
    next_id = 0
    for group, server in _servers(fleet):
        counted = tuple(str(next_id + index) for index in range(group.gpus))
        next_id += group.gpus
        # Devices are numbered host by host; only servers of one address have one host's numbers.
        own = server.devices if shared and server.devices else counted
        given[server.name] = options.gpus.get(server.name, own)
        if len(given[server.name]) != group.gpus:
            raise BundleFault(
                f"gpus: server {server.name} has {group.gpus} GPU{'s' * (group.gpus != 1)}, "
                f"{len(given[server.name])} are given"
            )
    return given


def _service_name(server: ServerAddress) -> str:
    return dns_label(server.name, f"server {server.name}")


def _prefix(name: str) -> str:
    # The last character keeps server 1 from owning what is server 10's.
    return f"ppipe-{name}_"


def _shm(fleet: Fleet, group: ServerGroup, server: ServerAddress, options: ComposeOptions) -> int:
    """Of this server alone: each has a service of its own."""
    return group_shm_bytes(
        fleet,
        dataclasses.replace(group, servers=(server,)),
        in_flight=options.in_flight,
        default_bytes=options.shm_default_mib * MIB,
        any_plan=options.operator is not None,
    )


def _size(count: int) -> str:
    return f"{count // MIB}m"


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return value
