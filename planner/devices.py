"""Which of a host's GPUs each server uses: stated in the deployment file, or the lowest that are free.

Rules
- A GPU belongs to one server. CUDA_VISIBLE_DEVICES of a server lists its GPUs, so the ids in its repository
  count from 0 within the server, as in a container.
- Stated devices are numbers as nvidia-smi shows them, or UUIDs (`GPU-...`), or of MIG devices (`MIG-...`).
- CUDA shows a process one MIG device at most, so a server of MIG devices has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from planner.addresses import same_host


@dataclass(frozen=True)
class GpuServer:
    """A server that computes on GPUs. `devices`: as stated, in the order of its GPU ids; empty: any."""

    name: str
    host: str
    gpu_count: int
    devices: tuple[str, ...] = ()


def devices_of(servers: Iterable[GpuServer]) -> Mapping[str, tuple[str, ...]]:
    """The devices of each server, by name. Raises ValueError that names servers and devices."""
    by_host: dict[str, list[GpuServer]] = {}
    for server in servers:
        _check(server)
        by_host.setdefault(same_host(server.host), []).append(server)
    found: dict[str, tuple[str, ...]] = {}
    for host, here in by_host.items():
        found |= _on_host(host, here)
    return found


def _check(server: GpuServer) -> None:
    if server.devices and len(server.devices) != server.gpu_count:
        raise ValueError(
            f"server {server.name!r}: devices has {len(server.devices)} entries, and the server has "
            f"{server.gpu_count} GPUs; state one for each"
        )
    if len(server.devices) > 1 and any(device.startswith("MIG-") for device in server.devices):
        raise ValueError(
            f"server {server.name!r}: devices {', '.join(server.devices)}: CUDA shows a process one MIG "
            "device at most; make a server for each (gpus_per_server: 1)"
        )


def _on_host(host: str, servers: Sequence[GpuServer]) -> dict[str, tuple[str, ...]]:
    owners: dict[str, str] = {}
    for server in servers:
        for device in server.devices:
            if device in owners:
                raise ValueError(
                    f"device {device} of {host} is stated for {_both(owners[device], server.name)}; "
                    "each GPU belongs to one server"
                )
            owners[device] = server.name
    # Where UUIDs are stated nobody can tell which numbers they are, so the rest must be stated too.
    unstated = [server.name for server in servers if not server.devices]
    by_uuid = [server.name for server in servers if any(not one.isdigit() for one in server.devices)]
    if unstated and by_uuid:
        raise ValueError(
            f"servers of {host}: {by_uuid[0]!r} states devices by UUID, {unstated[0]!r} states none; "
            "state the devices of every server of this host"
        )
    free = (str(number) for number in itertools.count() if str(number) not in owners)
    return {
        server.name: server.devices or tuple(itertools.islice(free, server.gpu_count)) for server in servers
    }


def _both(first: str, second: str) -> str:
    return f"{first!r} twice" if first == second else f"{first!r} and {second!r}"
