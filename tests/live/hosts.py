"""Hosts of their own for live tests: network namespaces, each running `ppipe serve --host`."""

from __future__ import annotations

import pytest

from benchmarks.helpers.machines.hosts import Host, hosts, why_not
from benchmarks.helpers.machines.links import Link
from benchmarks.helpers.machines.served_hosts import HostsServed, serve_on_hosts

__all__ = ["Host", "HostsServed", "Link", "hosts", "require_hosts", "serve_on_hosts"]


def require_hosts() -> None:
    """Skip the test where this machine cannot make hosts."""
    if reason := why_not():
        pytest.skip(reason)
