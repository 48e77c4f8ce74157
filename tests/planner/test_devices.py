"""Which GPUs a server sees: each belongs to one server, and what cannot be is said when the file is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.deployment import DeploymentError, parse_deployment
from planner.devices import GpuServer, devices_of
from tests.planner.test_addresses import deployment

MIG = "MIG-2c8b9d2e-5f4a-5b7c-9a51-6c1c1e1a2b3c"
UUID = "GPU-7a5e1c9b-58a6-4d5b-8e8f-0f1c2d3e4b5a"


def test_servers_of_one_host_get_gpus_of_their_own() -> None:
    found = devices_of(
        [
            GpuServer("a", "h1", 2),
            GpuServer("b", "h2", 1),
            GpuServer("c", "h1", 1),
            GpuServer("d", "h1", 2, ("0", "3")),
        ]
    )
    assert found == {"a": ("1", "2"), "b": ("0",), "c": ("4",), "d": ("0", "3")}


def test_uuids_are_taken_as_they_are() -> None:
    assert devices_of([GpuServer("a", "h", 1, (UUID,)), GpuServer("b", "h", 1, (MIG,))]) == {
        "a": (UUID,),
        "b": (MIG,),
    }


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        ([GpuServer("a", "h", 2, ("0",))], "server 'a': devices has 1 entries, and the server has 2 GPUs"),
        ([GpuServer("a", "h", 1, ("1",)), GpuServer("b", "h", 1, ("1",))], "of h is stated for 'a' and 'b'"),
        ([GpuServer("a", "h", 2, ("1", "1"))], "device 1 of h is stated for 'a' twice"),
        ([GpuServer("a", "h", 2, (MIG, MIG + "1"))], "one MIG device at most; make a server for each"),
        ([GpuServer("a", "h", 1, (UUID,)), GpuServer("b", "h", 1)], "'b' states none; state the devices"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(servers: list[GpuServer], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        devices_of(servers)
    assert said in str(refused.value)


@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(1, 4), st.booleans()), min_size=1, max_size=8))
def test_no_gpu_has_two_servers(shapes: list[tuple[str, int, bool]]) -> None:
    stated = iter(range(10, 1000))
    servers = [
        GpuServer(str(index), host, count, tuple(str(next(stated)) for _ in range(count)) if some else ())
        for index, (host, count, some) in enumerate(shapes)
    ]
    found = devices_of(servers)
    used = [(server.host, device) for server in servers for device in found[server.name]]
    assert len(set(used)) == len(used)
    assert all(len(found[server.name]) == server.gpu_count for server in servers)


def group(**changes: Any) -> dict[str, Any]:
    server = {"name": "s0", "host": "10.0.0.8"} | changes
    return {"gpu": "slow", "gpus_per_server": 1, "servers": [server]}


def test_devices_are_read_from_the_file() -> None:
    other = {"gpu": "fast", "gpus_per_server": 1, "servers": [{"name": "f0", "host": "10.0.0.8"}]}
    cluster = parse_deployment(deployment(groups=[group(devices=[0]), other]), "d.yaml").to_cluster()
    assert {server.name: server.devices for server in cluster.servers} == {"s0": ("0",), "f0": ("1",)}


@pytest.mark.parametrize("devices", [["GPU 0"], ["-1"], ["cuda:0"], ["0,1"], [""], [1.5]])
def test_what_is_no_device_is_refused(devices: list[Any]) -> None:
    with pytest.raises(DeploymentError, match=r"cluster\.groups\.0\.servers\.0\.devices\.0"):
        parse_deployment(deployment(groups=[group(devices=devices)]), "d.yaml")


def test_emulated_and_cpu_servers_have_no_devices() -> None:
    classes = [{"name": "fast", "executor": "emulated"}, {"name": "slow", "executor": "cpu"}]
    made = parse_deployment(deployment(gpu_classes=classes), "d.yaml").to_cluster()
    assert [server.devices for server in made.servers] == [(), ()]
