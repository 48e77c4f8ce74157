"""Which of a deployment's hosts this machine is."""

from __future__ import annotations

import socket
from collections.abc import Iterable

AUTO = "auto"


class NotHere(Exception):
    """No server of the deployment is this machine's; the message says which hosts it has."""


def hosts_here(hosts: Iterable[str], wanted: str) -> frozenset[str]:
    """Of the hosts that the deployment names, those that `wanted` means: one of them, or, with 'auto', all
    whose address is this machine's.

    Raises NotHere.
    """
    named = sorted(set(hosts))
    found = [host for host in named if is_here(host)] if wanted == AUTO else [wanted]
    if not set(found) & set(named):
        why = "none of them is this machine's" if wanted == AUTO else f"{wanted!r} is none of them"
        raise NotHere(f"--host: the deployment's servers are on {', '.join(named)}; {why}")
    return frozenset(found)


def is_here(host: str) -> bool:
    """Whether a name or an address is one of this machine's: whether a server could be bound to it."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_can_bind(family, address) for family, _, _, _, address in found)


def _can_bind(family: int, address: object) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        try:
            tried.bind(address)  # type: ignore[arg-type]
        except OSError:
            return False
    return True
