"""Two entries on hosts of their own, at addresses of IPv6, each with a clock of its own, leases in a real
etcd: the network between the entries fails, etcd ends under load, and frames go on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.helpers.entries.hosts import LINK, EntryHosts, entry_hosts, faults, strike
from benchmarks.helpers.machines.etcd import find_etcd
from tests.live.hosts import require_hosts

pytestmark = pytest.mark.live
FAULTS = {fault.name: fault for fault in faults(1.5)}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EntryHosts]:
    require_hosts()
    if find_etcd() is None:
        pytest.skip("no etcd here; scripts/setup unpacks Debian's")
    with entry_hosts(tmp_path_factory.mktemp("apart"), LINK, ipv6=True) as made:
        yield made


@pytest.mark.parametrize("name", ["entries, both ways", "etcd killed"])
def test_every_frame_ends_once_with_its_own_answer(running: EntryHosts, name: str) -> None:
    """How many are in time the benchmark says: that is a matter of the machine, too."""
    running.wait_until_each_owns_its_own()
    found = strike(running, FAULTS[name], seed=1, after_s=0.5)
    assert found["frames"] > 0
    assert (found["unanswered"], found["double"], found["wrong"]) == (0, 0, 0)
    assert found["attained"] > 0
    if name == "etcd killed":
        assert found["kept"], "owners go on, and nobody can adopt"
