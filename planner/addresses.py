"""Hosts and ports of a deployment file: checked when it is read, so that no address fails far from it.

Rules
- A host is a name or an address that the other servers can call: no URL, no port, no list, no variable. An
  IPv6 address is kept in its shortest form, without brackets; they belong where a port follows.
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
_WANTED = "wanted: a name such as gpu-7.rack2 or an address such as 10.0.0.7 or fd00::7"


def checked_host(host: str) -> str:
    """The host as it is given, an IPv6 address in its one form. Raises ValueError that says what is wrong."""
    fault = _fault(host)
    if fault:
        raise ValueError(f"{fault}; {_WANTED}")
    found = _ipv6(host)
    return host if found is None else found.compressed


def authority(host: str, port: int) -> str:
    """`host:port` as URLs and gRPC take it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_flag(kind: str, host: str) -> str:
    """What tells tritonserver on which address to listen; kind: http, grpc or metrics. For IPv6 the HTTP
    server, which shows metrics too, wants a prefix of its own (libevhtp's), gRPC wants brackets.
    """
    if ":" in host:
        host = f"[{host}]" if kind == "grpc" else f"ipv6:[{host}]"
    return f"--{kind}-address={host}"


def _fault(host: str) -> str:
    if not host:
        return "a host is missing"
    if "://" in host:
        return "this is a URL; expected a host alone"
    if host != host.strip() or any(letter.isspace() for letter in host):
        return "a host has no spaces"
    if "," in host or ";" in host:
        return "this is a list; expected one host"
    if "$" in host:
        return "variables are not replaced here"
    if host.startswith("[") or host.count(":") > 1:
        return _ipv6_fault(host)
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit():
        return _own_field(name)
    return _address_fault(host) or _name_fault(host)


def _own_field(host: str) -> str:
    return f"the port has a field of its own (http_port, grpc_port, metrics_port); the host is {host!r}"


def _ipv6(host: str) -> ipaddress.IPv6Address | None:
    """The address, with or without brackets; None where it is none."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return ipaddress.IPv6Address(bare)
    except ValueError:
        return None


def _ipv6_fault(host: str) -> str:
    bracketed, _, port = host.rpartition("]:")
    if port.isdigit() and _ipv6(f"{bracketed}]") is not None:
        return _own_field(bracketed[1:])
    address = _ipv6(host)
    if address is None:
        return "this is no IPv6 address"
    if address.scope_id or address.is_link_local:
        return "this is a link-local address, which means another host on each link"
    if address.ipv4_mapped is not None:
        return f"this is the IPv4 address {address.ipv4_mapped}; write that"
    if address.is_unspecified:
        return "this is an address to listen on, which nobody can call"
    return "this is an address of many hosts" if address.is_multicast else ""


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
        earlier = owners.setdefault((same_host(host), port, protocol), owner)
        if earlier != owner:
            yield f"port {port} of {host} is {earlier} and {owner}; give one of them another"


def _uses(cluster: Cluster, models: Sequence[str]) -> Iterator[tuple[str, int, str, str]]:
    """(host, port, protocol, what for) of everything that will listen."""
    servers: tuple[EntryServer | Server, ...] = (*cluster.entries, *cluster.servers)
    for server in servers:
        for field in ("http_port", "grpc_port", "metrics_port"):
            yield server.host, getattr(server, field), "tcp", f"{field} of server {server.name!r}"
    for entry in cluster.entries:
        at = f" at entry {entry.name!r}" if cluster.more_entries else ""
        for index, model in enumerate(models):
            port, owner = entry.feedback_port + index, f"the feedback port of model {model!r}{at}"
            yield entry.host, port, "udp", owner
            yield entry.host, port, "tcp", owner


def same_host(host: str) -> str:
    """Hosts that are surely one are written alike."""
    name = host.removesuffix(".").lower()
    return "127.0.0.1" if name == "localhost" else name
