"""The inventory: GPU classes, the servers that hold them, the links between servers.

A GPU may be cut into equal slices (MPS): `slices_per_gpu` 1 is the whole GPU; counts are never zero-based.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from planner.serial import LATER


class Executor(Enum):
    """What a stage worker of a GPU class does with a batch."""

    CUDA = "cuda"
    CPU = "cpu"
    EMULATED = "emulated"
    """Real tensors through the real path; the worker is held for the profiled latency, nothing computed."""


@dataclass(frozen=True)
class StatedSpeed:
    """A GPU class described by a small roofline instead of a measurement: for demos, tests and emulation.

    A block takes flops / gflop_per_s + bytes moved / gbyte_per_s + overhead_us. A CPU executor of such a
    class computes and then holds its worker until the stated latency is over.
    """

    gflop_per_s: float
    gbyte_per_s: float
    overhead_us: float = 0.0


@dataclass(frozen=True)
class GpuClass:
    """A kind of interchangeable GPUs. `memory_bytes` None: memory is not modelled. spot: classes
    of one name here, but '', may vanish all at once, and a plan promises what it serves without them.
    """

    name: str
    max_slices_per_gpu: int = 1
    memory_bytes: int | None = None
    executor: Executor = Executor.CUDA
    stated: StatedSpeed | None = None
    spot: str = ""


@dataclass(frozen=True)
class Server:
    """One tritonserver and its GPUs. `gpu` names a GpuClass; `host` is where the other servers reach it."""

    name: str
    gpu: str
    gpu_count: int
    bandwidth_gbps: float
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    devices: tuple[str, ...] = ()
    """Its GPUs on its host, in the order of GPU ids: numbers or UUIDs (planner.devices); empty: none."""
    cores: int | None = None
    """For preparing frames and finishing answers; None: they are not modelled."""


@dataclass(frozen=True)
class EntryServer:
    """The CPU server of dispatchers. bandwidth_gbps: of its link, per direction; None: what crosses it is not
    modelled. cores: for taking frames in and answering; None: not modelled.
    """

    name: str = "entry"
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    feedback_port: int = 0
    """First of as many UDP ports as there are models: each dispatcher takes its stages' notices on one."""
    bandwidth_gbps: float | None = None
    client_bandwidth_gbps: float | None = None
    """Of a link of their own to the clients; None: they use the same link as the servers."""
    cores: int | None = None


@dataclass(frozen=True)
class Cluster:
    """Everything that a plan may use. Server and class names are unique; checked on construction."""

    gpu_classes: tuple[GpuClass, ...]
    servers: tuple[Server, ...]
    entry: EntryServer = EntryServer()
    carried_share: float = 1.0
    """The part of any link's bandwidth that frames and tensors get; the rest is headers. 1.0 in the paper."""
    more_entries: tuple[EntryServer, ...] = field(default=(), metadata=LATER)
    """Beside `entry`: every entry takes frames of every model."""

    def __post_init__(self) -> None:
        names = [gpu_class.name for gpu_class in self.gpu_classes]
        _require_unique("gpu_classes", names)
        entries = [entry.name for entry in self.entries]
        _require_unique("servers", [server.name for server in self.servers] + entries)
        for server in self.servers:
            if server.gpu not in names:
                raise ValueError(
                    f"server {server.name}: unknown GPU class {server.gpu!r}; known: {', '.join(names)}"
                )
            if server.gpu_count < 1:
                raise ValueError(f"server {server.name}: gpu_count {server.gpu_count} must be at least 1")
            if not server.bandwidth_gbps > 0:
                raise ValueError(
                    f"server {server.name}: bandwidth_gbps {server.bandwidth_gbps} must be above 0"
                )
            _require_cores(f"server {server.name}", server.cores)
        for entry in self.entries:
            _require_cores(f"entry {entry.name}", entry.cores)
            for name in ("bandwidth_gbps", "client_bandwidth_gbps"):
                gbps = getattr(entry, name)
                if gbps is not None and not gbps > 0:
                    raise ValueError(f"entry {entry.name}: {name} {gbps} must be above 0")
        if not 0 < self.carried_share <= 1:
            raise ValueError(f"carried_share {self.carried_share} must be above 0 and at most 1")

    @property
    def entries(self) -> tuple[EntryServer, ...]:
        """All of them, `entry` first."""
        return (self.entry, *self.more_entries)

    def gpu_class(self, name: str) -> GpuClass:
        """The class called `name`. Raises KeyError."""
        for gpu_class in self.gpu_classes:
            if gpu_class.name == name:
                return gpu_class
        raise KeyError(f"unknown GPU class {name!r}; known: {', '.join(c.name for c in self.gpu_classes)}")

    def servers_of(self, gpu: str) -> tuple[Server, ...]:
        """The servers of one GPU class, in declared order."""
        return tuple(server for server in self.servers if server.gpu == gpu)

    def gpu_count(self, gpu: str) -> int:
        """GPUs of one class in the whole cluster."""
        return sum(server.gpu_count for server in self.servers_of(gpu))

    def gpus_per_server(self, gpu: str) -> int:
        """The most GPUs of this class that share one server's links; 1 for a class without servers."""
        return max((server.gpu_count for server in self.servers_of(gpu)), default=1)

    def bandwidth_gbps(self, sender: str, receiver: str) -> float:
        """Bandwidth to plan with between two GPU classes: what the slowest link of either carries."""
        return self.carried_share * min(self._slowest_gbps(sender), self._slowest_gbps(receiver))

    def entry_gbps(self, gpu: str) -> float:
        """The same between the entry, the slowest of several, and a class."""
        links = [entry.bandwidth_gbps for entry in self.entries if entry.bandwidth_gbps is not None]
        return self.carried_share * min(*links, math.inf, self._slowest_gbps(gpu))

    def cores_per_server(self, gpu: str) -> float:
        """The least cores of this class's servers; infinite where they are not modelled."""
        found = [server.cores for server in self.servers_of(gpu) if server.cores is not None]
        return float(min(found, default=math.inf))

    def _slowest_gbps(self, gpu: str) -> float:
        return min(server.bandwidth_gbps for server in self.servers_of(gpu))


def _require_cores(where: str, cores: int | None) -> None:
    if cores is not None and cores < 1:
        raise ValueError(f"{where}: cores {cores} must be at least 1")


def _require_unique(where: str, names: list[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{where}: the name {name!r} is used {count} times; names must be unique")
