"""The fleet in a deployment file: GPU classes, groups of servers, the entry; and the Cluster that they mean.

Rules
- Servers of groups by count are called <class>-0, -1, ... through all groups of their class; names that
  listed servers have are left out.
- Ports that are not stated are given out upwards from base_port: the entry's, then server by server, then
  those of further entries.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from planner.addresses import checked_host
from planner.cluster import Cluster, EntryServer, Executor, GpuClass, Server, StatedSpeed
from planner.deployment.spec import Name, Port, Spec
from planner.devices import GpuServer, devices_of

Host = Annotated[str, AfterValidator(checked_host)]
Device = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    Field(pattern=r"^([0-9]{1,3}|(GPU|MIG)-[A-Za-z0-9/-]{1,100})$"),
]
PORTS_PER_SERVER = 3
ENTRY_PORTS = 3
MOST_ENTRIES = 64
CARRIED_SHARE = 0.95
"""What TCP over Ethernet carries of a link's bandwidth: 1,448 of 1,538 bytes per packet, and some reserve."""
CORES_PER_GPU = 4
"""Of a server whose cores are not stated; cloud servers of L4 and T4 have as many or more."""


class StatedSpeedSpec(Spec):
    """See planner.cluster.StatedSpeed."""

    gflop_per_s: float = Field(gt=0)
    gbyte_per_s: float = Field(gt=0)
    overhead_us: float = Field(default=0.0, ge=0)


class GpuClassSpec(Spec):
    """A GPU class. `executor: cpu` with `stated` is padded; `emulated` needs `stated` or a profile."""

    name: Name
    max_slices_per_gpu: int = Field(default=1, ge=1, le=16)
    memory_gib: float | None = Field(default=None, gt=0)
    executor: Literal["cuda", "cpu", "emulated"] = "cuda"
    stated: StatedSpeedSpec | None = None
    cost: float = Field(default=1.0, gt=0)
    spot: bool = False
    """All of its servers may vanish at once."""


class ServerSpec(Spec):
    """Address of one server; ports left out are given out from base_port."""

    name: Name
    host: Host = "127.0.0.1"
    http_port: Port = 0
    grpc_port: Port = 0
    metrics_port: Port = 0
    devices: tuple[Device, ...] = ()
    """Its GPUs, as nvidia-smi numbers them or by UUID. Default: the lowest that no server of the host has."""


class ServerGroupSpec(Spec):
    """Equal servers of one GPU class: either a list of addresses or a count of servers on `host`."""

    gpu: Name
    gpus_per_server: int = Field(ge=1, le=64)
    count: int | None = Field(default=None, le=10_000)
    host: Host = "127.0.0.1"
    servers: tuple[ServerSpec, ...] = ()
    bandwidth_gbps: float | None = Field(default=None, gt=0)
    cores: int | None = Field(default=None, ge=1, le=1024)
    """Of each server, for preparing frames and finishing answers. Default: CORES_PER_GPU for each of its
    GPUs."""

    @field_validator("count")
    @classmethod
    def _some(cls, count: int | None) -> int | None:
        if count is not None and count < 1:
            raise ValueError(
                "a pool without servers is left out by leaving its group out; "
                "a count is greater than or equal to 1"
            )
        return count

    @model_validator(mode="after")
    def _count_or_list(self) -> ServerGroupSpec:
        if (self.count is None) == (not self.servers):
            raise ValueError(f"group of {self.gpu!r}: give either 'count' or a list of 'servers'")
        return self


class EntrySpec(Spec):
    """The entry server: its address, its link (default: the cluster's bandwidth), its cores. All that
    clients send and get crosses the link too, unless `client_bandwidth_gbps` says that they have one of
    their own.
    """

    host: Host = "127.0.0.1"
    http_port: Port = 0
    grpc_port: Port = 0
    metrics_port: Port = 0
    feedback_port: Port = 0
    bandwidth_gbps: float | None = Field(default=None, gt=0)
    client_bandwidth_gbps: float | None = Field(default=None, gt=0)
    cores: int | None = Field(default=None, ge=1, le=1024)


class ListedEntrySpec(EntrySpec):
    """One of several entries."""

    name: Name


def _listed(entries: object) -> object:
    """A count as the entries that it means."""
    if isinstance(entries, list | tuple):
        return entries
    if isinstance(entries, bool) or not isinstance(entries, int):
        raise ValueError("expected a list of entries, each with its name, or a count")
    if not 1 <= entries <= MOST_ENTRIES:
        raise ValueError(f"a count of entries is from 1 to {MOST_ENTRIES}")
    return tuple({"name": f"entry-{number}"} for number in range(entries))


class ClusterSpec(Spec):
    """Classes, server groups, and what takes clients' frames: one `entry`, or several `entries`, a list or a
    count. With a count, `entry` states what they have in common: host, links, cores. `base_port`: local ports
    are given out upwards from here.
    """

    gpu_classes: tuple[GpuClassSpec, ...] = Field(min_length=1)
    groups: tuple[ServerGroupSpec, ...] = Field(min_length=1)
    entry: EntrySpec = EntrySpec()
    entries: Annotated[tuple[ListedEntrySpec, ...], BeforeValidator(_listed)] = ()
    bandwidth_gbps: float = Field(default=10.0, gt=0)
    base_port: int = Field(default=18000, ge=1024, le=60000)

    @model_validator(mode="after")
    def _known_classes(self) -> ClusterSpec:
        names = [gpu_class.name for gpu_class in self.gpu_classes]
        for group in self.groups:
            if group.gpu not in names:
                near = difflib.get_close_matches(group.gpu, names, n=1, cutoff=0.5)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(
                    f"groups: unknown GPU class {group.gpu!r}{hint}; gpu_classes has {', '.join(names)}"
                )
        return self

    @model_validator(mode="after")
    def _entry_or_entries(self) -> ClusterSpec:
        stated = [one for one in self.entries if one != ListedEntrySpec(name=one.name)]
        if stated and self.entry != EntrySpec():
            raise ValueError(
                "entry and entries: give one 'entry', or a list of 'entries' that says all of each"
            )
        if len(self.entries) > 1 and not stated:
            ports = ("http_port", "grpc_port", "metrics_port", "feedback_port")
            if any(getattr(self.entry, port) for port in ports):
                raise ValueError(
                    f"entry: its ports cannot be those of {len(self.entries)} entries; leave them out, "
                    "or give a list of 'entries'"
                )
        names = [one.name for one in self.entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"entries: the name {twice[0]!r} is used more than once; names must be unique")
        return self


def cluster_of(spec: ClusterSpec, models: int) -> Cluster:
    """The cluster, with ports for so many models. Raises ValueError."""
    port = spec.base_port
    entry_ports = ENTRY_PORTS + 2 * models  # two revisions may be loaded side by side
    first = port + entry_ports
    servers = [
        _server(spec, group, server, first + PORTS_PER_SERVER * index)
        for index, (group, server) in enumerate(_grouped_servers(spec))
    ]
    specs = list(_entry_specs(spec))
    more = first + PORTS_PER_SERVER * len(servers)
    ports = [port, *(more + entry_ports * number for number in range(len(specs) - 1))]
    entries = [_entry(spec, name, one, at) for (name, one), at in zip(specs, ports, strict=True)]
    return Cluster(
        gpu_classes=tuple(_gpu_class(gpu_class) for gpu_class in spec.gpu_classes),
        servers=_with_devices(spec, servers),
        entry=entries[0],
        carried_share=CARRIED_SHARE,
        more_entries=tuple(entries[1:]),
    )


def _entry_specs(spec: ClusterSpec) -> Iterator[tuple[str, EntrySpec]]:
    """By name. A list states each in full; of a count all are as `entry` says."""
    if not spec.entries:
        yield EntryServer().name, spec.entry
    for one in spec.entries:
        counted = one == ListedEntrySpec(name=one.name)
        yield one.name, spec.entry if counted else one


def _entry(spec: ClusterSpec, name: str, entry: EntrySpec, port: int) -> EntryServer:
    return EntryServer(
        name=name,
        host=entry.host,
        http_port=entry.http_port or port,
        grpc_port=entry.grpc_port or port + 1,
        metrics_port=entry.metrics_port or port + 2,
        feedback_port=entry.feedback_port or port + 3,
        bandwidth_gbps=entry.bandwidth_gbps or spec.bandwidth_gbps,
        client_bandwidth_gbps=entry.client_bandwidth_gbps,
        cores=entry.cores,
    )


def _server(spec: ClusterSpec, group: ServerGroupSpec, server: ServerSpec, port: int) -> Server:
    return Server(
        name=server.name,
        gpu=group.gpu,
        gpu_count=group.gpus_per_server,
        bandwidth_gbps=group.bandwidth_gbps or spec.bandwidth_gbps,
        cores=group.cores or CORES_PER_GPU * group.gpus_per_server,
        host=server.host,
        http_port=server.http_port or port,
        grpc_port=server.grpc_port or port + 1,
        metrics_port=server.metrics_port or port + 2,
        devices=server.devices,
    )


def _grouped_servers(spec: ClusterSpec) -> Iterator[tuple[ServerGroupSpec, ServerSpec]]:
    listed = {server.name for group in spec.groups for server in group.servers}
    names = {gpu_class.name: _numbered(gpu_class.name, listed) for gpu_class in spec.gpu_classes}
    for group in spec.groups:
        for server in group.servers:
            yield group, server
        for _ in range(group.count or 0):
            yield group, ServerSpec(name=next(names[group.gpu]), host=group.host)


def _numbered(gpu: str, taken: set[str]) -> Iterator[str]:
    return (name for name in (f"{gpu}-{number}" for number in itertools.count()) if name not in taken)


def _with_devices(spec: ClusterSpec, servers: Sequence[Server]) -> tuple[Server, ...]:
    """Raises ValueError where two servers would have one GPU."""
    on_gpus = {one.name for one in spec.gpu_classes if one.executor == "cuda"}
    found = devices_of(
        GpuServer(server.name, server.host, server.gpu_count, server.devices)
        for server in servers
        if server.gpu in on_gpus
    )
    return tuple(replace(server, devices=found.get(server.name, ())) for server in servers)


def _gpu_class(spec: GpuClassSpec) -> GpuClass:
    return GpuClass(
        name=spec.name,
        max_slices_per_gpu=spec.max_slices_per_gpu,
        memory_bytes=None if spec.memory_gib is None else round(spec.memory_gib * 2**30),
        executor=Executor(spec.executor),
        stated=None if spec.stated is None else StatedSpeed(**spec.stated.model_dump()),
        spot=spec.name if spec.spot else "",
    )
