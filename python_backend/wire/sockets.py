"""Which family of addresses a host has: IPv4 where it has such an address, else IPv6."""

from __future__ import annotations

import socket


def resolved(host: str, port: int, kind: socket.SocketKind) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Family and address to bind or connect a socket of this kind with. Raises OSError.

    Both ends of a hop ask the same way, so that a name with addresses of both families is one place.
    """
    found = socket.getaddrinfo(host, port, type=kind)
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, (str(address[0]), int(address[1]))
