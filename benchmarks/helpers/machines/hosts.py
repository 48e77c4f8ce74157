"""Hosts on one machine: network namespaces on a bridge, with links of stated speed in both directions.

Rules
- Every host has one link to the others; the clients may have a second one to one host, of their own.
- Both ends of a link are shaped, so that what a host sends and what it gets are bounded alike.
- Where it is asked for, and the kernel has time namespaces, each host has a clock of its own: they differ by
  an hour.
- Memory and processes are shared: only network and clock tell the hosts apart.
- Names begin with our process id; what is left by a run that was killed is swept by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.helpers.machines.links import Delays, Link, shaping
from benchmarks.helpers.machines.relay import TUN, NoRelay, Strand, relayed

_NAMESPACES = Path("/run/netns")
_PREFIX = "ppipe"
_CLOCKS_APART_S = 3_600
_HEADERS_BYTES = 14 + 20 + 32
"""Of a packet as the link counts it: Ethernet, IP, TCP with time stamps."""
CLIENT_NET, FLEET_NET = "10.213.1", "10.213.0"
FLEET_NET_6 = "fd42:213:"
_HERE = 200
"""Of this process's own network among the hosts."""
_NOBODY = "02:00:00:00:00:01"
"""An Ethernet address that no host has: what is sent there is lost without a word."""


class NoHosts(RuntimeError):
    """This machine cannot make hosts; the message says what is missing."""


@dataclass(frozen=True)
class Host:
    """A namespace with an address. Clients outside reach it there too, by their own link."""

    name: str
    namespace: str
    address: str
    switch: str
    port: str
    """Where its link ends, and in which namespace."""
    ahead_s: int = 0
    """Of its monotonic clock before this machine's."""

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, run on this host."""
        clock = ["unshare", "--time", f"--monotonic={self.ahead_s}", "--"] if self.ahead_s else []
        return ["nsenter", f"--net={_NAMESPACES / self.namespace}", "--", *clock, *command]

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """From all other hosts, both ways, for as long as it lasts: what is sent is lost without a word."""
        _in(self.switch, ["ip", "link", "set", self.port, "down"])
        try:
            yield
        finally:
            _in(self.switch, ["ip", "link", "set", self.port, "up"])

    @contextlib.contextmanager
    def unheard_by(self, *others: Host) -> Iterator[None]:
        """What this host sends to the others is lost for as long as it lasts; what they send comes."""
        for other in others:
            self._ip("neigh", "replace", other.address, "lladdr", _NOBODY, "nud", "permanent", "dev", "fleet")
        try:
            yield
        finally:
            for other in others:
                self._ip("neigh", "del", other.address, "dev", "fleet")

    def _ip(self, *words: str) -> None:
        _in(self.namespace, ["ip", *words])

    def sent_bytes(self) -> int:
        """What this host has put on its fleet link so far, all headers included."""
        return self._counted("tx_bytes")

    def sent_payload(self) -> int:
        """The same without the headers of Ethernet, IP and TCP."""
        return self._counted("tx_bytes") - _HEADERS_BYTES * self._counted("tx_packets")

    def _counted(self, name: str) -> int:
        path = f"/sys/class/net/fleet/statistics/{name}"
        return int(_said(["ip", "netns", "exec", self.namespace, "cat", path]))


def why_not() -> str:
    """What keeps this machine from making hosts; '' for nothing."""
    missing = [tool for tool in ("ip", "tc", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found; install iproute2 and util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with hosts({"a": Link(100)}):
            return ""
    except NoHosts as error:
        return str(error)


def has_clocks() -> bool:
    """Whether hosts can have clocks of their own."""
    return shutil.which("unshare") is not None and _try(["unshare", "--time", "--monotonic=1", "--", "true"])


def machines_congestion() -> str:
    """Control of TCP that hosts have unless told otherwise."""
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def delays() -> Delays | None:
    """How links can have delay, jitter and loss here; None where they cannot."""
    if _has_netem():
        return Delays.NETEM
    return Delays.RELAY if os.access(TUN, os.R_OK | os.W_OK) else None


def _has_netem() -> bool:
    with contextlib.ExitStack() as stack:
        name = f"{_PREFIX}{os.getpid()}_netem"
        _add_namespace(name, stack)
        tried = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        return _try(["ip", "netns", "exec", name, *tried])


@contextlib.contextmanager
def parted(one: Host, other: Host) -> Iterator[None]:
    """Neither hears the other; all others do."""
    with one.unheard_by(other), other.unheard_by(one):
        yield


@contextlib.contextmanager
def hosts(
    links: Mapping[str, Link],
    clients: tuple[str, Link] | None = None,
    clocks_apart: bool = False,
    ipv6: bool = False,
    among: bool = False,
    congestion: str = "",
) -> Iterator[dict[str, Host]]:
    """Hosts by name. clients: (host, link) of a second link from this process's own network to that host.
    among: this process's own network is one more host. ipv6: addresses of that kind. congestion: the control
    of TCP on all of them, as the kernel calls it; '': this machine's.

    Raises NoHosts.
    """
    _sweep()
    apart_s = _CLOCKS_APART_S if clocks_apart and has_clocks() else 0
    made = {
        name: Host(
            name=name,
            namespace=f"{_PREFIX}{os.getpid()}_{name}",
            address=_address(index + 2, ipv6),
            switch=f"{_PREFIX}{os.getpid()}_switch",
            port=f"port{index}",
            ahead_s=apart_s * (index + 1),
        )
        for index, name in enumerate(links)
    }
    with contextlib.ExitStack() as stack:
        # The bridge has a namespace of its own, so that our own network stays as it is.
        switch = f"{_PREFIX}{os.getpid()}_switch"
        _add_namespace(switch, stack)
        _in(switch, ["ip", "link", "add", "bridge", "type", "bridge"])
        _in(switch, ["ip", "link", "set", "bridge", "up"])
        by_relay = _relayed_links(links)
        strands = []
        for index, host in enumerate(made.values()):
            _add_namespace(host.namespace, stack)
            port = f"port{index}"
            if host.name in by_relay:
                ends = (host.namespace, "fleet"), (switch, port)
                for namespace, device in ends:
                    _in(namespace, ["ip", "tuntap", "add", "dev", device, "mode", "tap"])
                strands.append(Strand(*ends, links[host.name].nature, seed=index))
            else:
                _run(["ip", "link", "add", port, "netns", switch, "type", "veth",
                      "peer", "name", "fleet", "netns", host.namespace])  # fmt: skip
            _in(switch, ["ip", "link", "set", port, "master", "bridge", "up"])
            _in(host.namespace, ["ip", "addr", "add", *_with_net(host.address), "dev", "fleet"])
            _in(host.namespace, ["ip", "link", "set", "fleet", "up"])
            if congestion:
                _in(host.namespace, ["sysctl", "-q", f"net.ipv4.tcp_congestion_control={congestion}"])
            _shape(host.namespace, "fleet", links[host.name], host.name in by_relay)
            _shape(switch, port, links[host.name], host.name in by_relay)
        if strands:
            _relay(strands, stack)
        if clients is not None:
            _add_client_link(made[clients[0]], clients[1], stack)
        if among:
            _add_here(switch, _address(_HERE, ipv6), stack)
        yield made


def _relayed_links(links: Mapping[str, Link]) -> set[str]:
    """Names of those that netem does not delay. Raises NoHosts."""
    delayed = {name for name, link in links.items() if not link.is_plain}
    how = delays() if delayed else None
    if delayed and how is None:
        raise NoHosts(
            f"packets cannot be delayed or lost here: the kernel has no netem, and {TUN} is missing"
        )
    return delayed if how is Delays.RELAY else set()


def _relay(strands: Sequence[Strand], stack: contextlib.ExitStack) -> None:
    try:
        stack.enter_context(relayed(strands))
    except NoRelay as error:
        raise NoHosts(str(error)) from None


def _address(number: int, ipv6: bool) -> str:
    return f"{FLEET_NET_6}:{number:x}" if ipv6 else f"{FLEET_NET}.{number}"


def _with_net(address: str) -> list[str]:
    """Without waiting whether somebody else has it: an address of IPv6 could not be bound until then."""
    return [f"{address}/64", "nodad"] if ":" in address else [f"{address}/24"]


def _add_here(switch: str, address: str, stack: contextlib.ExitStack) -> None:
    ours = f"{_PREFIX}{os.getpid()}h"
    _run(["ip", "link", "add", ours, "type", "veth", "peer", "name", "here", "netns", switch])
    stack.callback(_try, ["ip", "link", "del", ours])
    _in(switch, ["ip", "link", "set", "here", "master", "bridge", "up"])
    _run(["ip", "addr", "add", *_with_net(address), "dev", ours])
    _run(["ip", "link", "set", ours, "up"])


def _add_client_link(host: Host, link: Link, stack: contextlib.ExitStack) -> None:
    ours = f"{_PREFIX}{os.getpid()}c"
    _run(["ip", "link", "add", ours, "type", "veth", "peer", "name", "clients", "netns", host.namespace])
    stack.callback(_try, ["ip", "link", "del", ours])
    _run(["ip", "addr", "add", f"{CLIENT_NET}.1/24", "dev", ours])
    _run(["ip", "link", "set", ours, "up"])
    _in(host.namespace, ["ip", "addr", "add", f"{CLIENT_NET}.2/24", "dev", "clients"])
    _in(host.namespace, ["ip", "link", "set", "clients", "up"])
    _shape(host.namespace, "clients", link)
    _shape_here(ours, link)
    _run(["ip", "route", "add", f"{host.address}/32", "via", f"{CLIENT_NET}.2"])


def _add_namespace(name: str, stack: contextlib.ExitStack) -> None:
    _run(["ip", "netns", "add", name])
    stack.callback(_try, ["ip", "netns", "del", name])
    _in(name, ["ip", "link", "set", "lo", "up"])


def _shape(namespace: str, device: str, link: Link, by_relay: bool = False) -> None:
    for command in shaping(device, link, by_relay):
        _in(namespace, command)


def _shape_here(device: str, link: Link) -> None:
    for command in shaping(device, link):
        _run(command)


def _sweep() -> None:
    """Take away what runs left that are gone."""
    for path in _NAMESPACES.glob(f"{_PREFIX}[0-9]*_*") if _NAMESPACES.is_dir() else ():
        pid = path.name.removeprefix(_PREFIX).partition("_")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            _try(["ip", "netns", "del", path.name])


def _in(namespace: str, command: Sequence[str]) -> None:
    _run(["ip", "netns", "exec", namespace, *command])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise NoHosts(f"network namespaces cannot be made here: {' '.join(command)}: {said}")


def _try(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _said(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
