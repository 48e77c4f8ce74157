"""Local ports: are they free, who has them, and where is a free run of them.

A check before the start gives a clear error; the bind itself still decides.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from planner.addresses import same_host
from python_backend.wire.sockets import resolved

LOOPBACK = "127.0.0.1"
_HUNDRED = 100
_CLAIMS: dict[int, int] = {}
"""Descriptors that are held until this process ends, by the hundred ports that they claim."""


@dataclass(frozen=True)
class PortUse:
    """A port that a deployment wants. `owner` and `field` name it in messages: server 'entry',
    'grpc_port'.
    """

    owner: str
    field: str
    host: str
    port: int
    udp: bool = False


class PortInUse(Exception):
    """A wanted port is taken, by another process or by a second use in the same deployment."""


def check(wanted: Iterable[PortUse]) -> None:
    """Raises PortInUse with one line per port that cannot be had."""
    faults = []
    seen: dict[tuple[str, int, bool], PortUse] = {}
    for use in wanted:
        earlier = seen.setdefault((same_host(use.host), use.port, use.udp), use)
        if earlier is not use:
            faults.append(f"{_said(use)} is also {earlier.field} of server {earlier.owner!r}")
        elif not is_free(use.port, host=use.host, udp=use.udp):
            faults.append(f"{_said(use)} is in use{_held_by(use)}; free it, or set another port or base_port")
    if faults:
        raise PortInUse("\n".join(faults))


def is_free(port: int, host: str = LOOPBACK, udp: bool = False) -> bool:
    """Whether a server could bind this port now."""
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    family, address = resolved(host, port, kind)
    with socket.socket(family, kind) as probe:
        if not udp:
            # As servers do: connections of an ended server that linger do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_base(first: int, count: int, last: int = 60_000) -> int:
    """The first port from `first` on, in steps of 100, from which `count` ports are free. No other process is
    given them by this while this one lives: it may take seconds until servers have bound them. Raises
    PortInUse.
    """
    for base in range(first, last - count, _HUNDRED):
        free = all(is_free(port) and is_free(port, udp=True) for port in range(base, base + count))
        if free and _claimed(base, count):
            return base
    raise PortInUse(f"no run of {count} free ports between {first} and {last}")


def _claimed(base: int, count: int) -> bool:
    """Whether these ports' hundreds are this process's now. Claims are names of abstract sockets, which the
    kernel takes back when a process ends, however it ends.
    """
    hundreds = range(base // _HUNDRED, (base + count - 1) // _HUNDRED + 1)
    for hundred in hundreds:
        if hundred in _CLAIMS:
            continue
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as claim:
            try:
                claim.bind(f"\0ppipe-ports-{hundred}")
            except OSError:
                return False
            _CLAIMS[hundred] = claim.detach()
    return True


def _said(use: PortUse) -> str:
    kind = "UDP port" if use.udp else "port"
    return f"server {use.owner!r}: {use.field}: {kind} {use.port} on {use.host}"


def _held_by(use: PortUse) -> str:
    pid = holder(use.port, udp=use.udp)
    if pid is None:
        return ""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return f" by process {pid}"
    return f" by process {pid} ({os.fsdecode(b' '.join(words[:3])).strip()})"


def holder(port: int, udp: bool = False) -> int | None:
    """Process id of who listens on a port, where the system lets us see it."""
    inodes = _listening_inodes(port, udp)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) in wanted:
                    return int(process.name)
        except OSError:
            continue  # ended meanwhile, or not ours to look into
    return None


def _listening_inodes(port: int, udp: bool) -> set[str]:
    """Socket inodes from the kernel's tables; state 0A is LISTEN, UDP sockets have 07."""
    state = "07" if udp else "0A"
    inodes = set()
    for table in ("udp", "udp6") if udp else ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == state and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(fields[9])
    return inodes
