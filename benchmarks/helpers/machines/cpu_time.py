"""Processor time of a deployment's processes, from /proc: servers and the Python stubs below them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc as triton

from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.processes import stubs_of

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTime:
    """Microseconds used so far, by '<server>' and '<server>/<model>'."""

    used_us: dict[str, int]

    def since(self, earlier: CpuTime) -> dict[str, int]:
        """What was used since `earlier`, idle parts left out."""
        spent = {name: used - earlier.used_us.get(name, 0) for name, used in self.used_us.items()}
        return {name: used for name, used in spent.items() if used > 0}


def cpu_time_of(deployment: ServedDeployment) -> CpuTime:
    """Of every process that lives now."""
    used: dict[str, int] = {}
    for status in deployment.statuses:
        if status.pid is None:
            continue
        used[status.name] = _used_us(status.pid)
        for model, stub in stubs_of(status.pid).items():
            used[f"{status.name}/{model}"] = _used_us(stub.pid)
    return CpuTime(used)


def _used_us(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) * 1_000_000 // _TICKS_PER_S


def tree_us(pids: Sequence[int]) -> int:
    """Of these processes and all below them, children that have ended included."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        used[pid] = sum(int(field) for field in fields[11:15]) * 1_000_000 // _TICKS_PER_S
    return sum(us for pid, us in used.items() if _is_below(pid, parents, frozenset(pids)))


def _is_below(pid: int, parents: Mapping[int, int], roots: frozenset[int]) -> bool:
    while pid not in roots and pid in parents:
        pid = parents[pid]
    return pid in roots


def frames_of(address: str, model: str) -> int:
    """Inferences that a model has answered since it was loaded, by the server's own count."""
    with triton.InferenceServerClient(address) as client:
        statistics = client.get_inference_statistics(model)
    return sum(int(each.inference_count) for each in statistics.model_stats)


@dataclass(frozen=True)
class HostTime:
    """Processor time of the whole host, other programs included."""

    busy_us: int
    available_us: int

    def since(self, earlier: HostTime) -> HostTime:
        """Between two looks."""
        return HostTime(self.busy_us - earlier.busy_us, max(1, self.available_us - earlier.available_us))

    @property
    def share(self) -> float:
        """Busy share of all processors."""
        return self.busy_us / self.available_us


def host_busy_us() -> HostTime:
    """As /proc/stat has it now."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    scale = 1_000_000 // _TICKS_PER_S
    return HostTime(busy_us=(sum(ticks) - idle) * scale, available_us=sum(ticks) * scale)
