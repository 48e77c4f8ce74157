"""Hosts and ports of a deployment file: checked when it is read, so that no address fails far from it.

Rules
- A host is a name or an IPv4 address that the other servers can call: no URL, no port, no list, no variable.
- Every port of a host has one use. Ports are TCP but for the dispatchers' notices, which are UDP; a
  dispatcher shows its metrics on the TCP port of the same number.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

from planner.cluster import Cluster, EntryServer, Server

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_LARGEST_PORT = 65_535
_LONGEST_NAME = 253
_WANTED = "wanted: a name such as gpu-7.rack2 or an IPv4 address such as 10.0.0.7"


def checked_host(host: str) -> str:
    """The host as it is given. Raises ValueError that says what is wrong with it."""
    fault = _fault(host)
    if fault:
        raise ValueError(f"{fault}; {_WANTED}")
    return host


def _fault(host: str) -> str:
    if not host:
        return "a host is missing"
    if "://" in host:
        return "this is a URL; a host alone belongs here"
    if host != host.strip() or any(letter.isspace() for letter in host):
        return "a host has no spaces"
    if "," in host or ";" in host:
        return "this is a list; one host belongs here"
    if "$" in host:
        return "variables are not replaced here"
    if _is_ipv6(host):
        return "IPv6 addresses are not supported"
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit():
        return f"the port has a field of its own (http_port, grpc_port, metrics_port); the host is {name!r}"
    return _address_fault(host) or _name_fault(host)


def _is_ipv6(host: str) -> bool:
    bare = host.removeprefix("[").partition("]")[0]
    try:
        return ipaddress.ip_address(bare).version == 6
    except ValueError:
        return host.startswith("[") or host.count(":") > 1


def _address_fault(host: str) -> str:
    parts = host.rstrip(".").split(".")
    if not all(part.isdigit() for part in parts):
        return ""
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return "this is no IPv4 address"
    if address.is_unspecified:
        return "this is an address to listen on, which nobody can call"
    return "this is an address of many hosts" if address.is_multicast else ""


def _name_fault(host: str) -> str:
    name = host.removesuffix(".")
    if not name.isascii():
        return f"a host name is of ASCII letters ({_punycode(host)})"
    if len(name) > _LONGEST_NAME:
        return f"a host name has at most {_LONGEST_NAME} letters"
    for label in name.split("."):
        if len(label) > 63:
            return f"a part of a host name has at most 63 letters, and {label[:12]}... has {len(label)}"
        if not _LABEL.fullmatch(label):
            return f"{label!r} is no part of a host name"
    return ""


def _punycode(host: str) -> str:
    try:
        return f"in DNS this one is {host.encode('idna').decode()!r}"
    except UnicodeError:
        return "and this one has no form in DNS"


def port_faults(cluster: Cluster, models: Sequence[str]) -> Iterator[str]:
    """A line for each port that is out of range, and for each that two have on one host."""
    owners: dict[tuple[str, int, str], str] = {}
    for host, port, protocol, owner in _uses(cluster, models):
        if port > _LARGEST_PORT:
            yield f"{owner} is {port}; ports end at {_LARGEST_PORT}: lower base_port or state ports"
            continue
        earlier = owners.setdefault((_same(host), port, protocol), owner)
        if earlier != owner:
            yield f"port {port} of {host} is {earlier} and {owner}; give one of them another"


def _uses(cluster: Cluster, models: Sequence[str]) -> Iterator[tuple[str, int, str, str]]:
    """(host, port, protocol, what for) of everything that will listen."""
    servers: tuple[EntryServer | Server, ...] = (cluster.entry, *cluster.servers)
    for server in servers:
        for field in ("http_port", "grpc_port", "metrics_port"):
            yield server.host, getattr(server, field), "tcp", f"{field} of server {server.name!r}"
    entry = cluster.entry
    for index, model in enumerate(models):
        port, owner = entry.feedback_port + index, f"the feedback port of model {model!r}"
        yield entry.host, port, "udp", owner
        yield entry.host, port, "tcp", owner


def _same(host: str) -> str:
    """Hosts that are surely one are written alike."""
    name = host.removesuffix(".").lower()
    return "127.0.0.1" if name == "localhost" else name
