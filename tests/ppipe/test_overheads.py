"""Stages and hops timed on real servers, and what is said when the servers are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppipe.overheads.measured import measure_there
from ppipe.overheads.rig import Address, OverheadError, parse_servers
from ppipe.serving.ports import free_base

SIZES = (4_096, 4_194_304)


def test_servers_are_two_addresses():
    assert parse_servers("a.example:8001, 10.0.0.2:9001") == (
        Address("a.example", 8001),
        Address("10.0.0.2", 9001),
    )
    with pytest.raises(OverheadError, match="'a:1' names 1 servers; expected two"):
        parse_servers("a:1")
    with pytest.raises(OverheadError, match="'b' is no server; expected 'host:port' of its gRPC endpoint"):
        parse_servers("a:1,b")


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_servers_that_do_not_answer_are_told_what_to_serve(tmp_path: Path):
    port = free_base(28_300, 2)
    servers = Address("127.0.0.1", port), Address("127.0.0.1", port + 1)
    with pytest.raises(OverheadError) as error:
        measure_there(servers, tmp_path, wire_gbps=10.0, sizes=SIZES, repeats=1)
    second, first = str(error.value).splitlines()[-2:]
    assert f"--model-repository={tmp_path}/" in first
    assert "--load-model=overhead_4096.p0.s0.w0" in first
    assert first.endswith(f"--grpc-port={port}")
    assert "--load-model=overhead_4096.p0.s1.w0" in second
    assert second.endswith(f"--grpc-port={port + 1}")
