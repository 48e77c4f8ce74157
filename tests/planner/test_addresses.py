"""Hosts and ports are checked when the file is read, with field, value and what is wanted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.addresses import address_flag, authority, checked_host
from planner.deployment import DeploymentError, parse_deployment

GOOD = (
    "127.0.0.1", "localhost", "127.0.1.1", "10.0.0.7", "gpu-7.rack2.example", "gpu-7.example.", "GPU_node_1",
    "0x7", "a", "street-l4-0.street-l4.vision.svc.cluster.local", "a" * 63 + ".example", "1and1.example",
)  # fmt: skip
BAD = {
    "": "missing",
    " gpu-7": "no spaces",
    "gpu 7": "no spaces",
    "gpu-7\n": "no spaces",
    "http://10.0.0.7": "URL",
    "grpc://gpu-7:8001/": "URL",
    "10.0.0.7:8001": "the host is '10.0.0.7'",
    "gpu-7:8001": "a field of its own",
    "[::1]:8001": "the host is '::1'",
    "fe80::1%eth0": "link-local",
    "fe80::1": "link-local",
    "fd00::7%1": "link-local",
    "::": "listen",
    "[::]": "listen",
    "ff02::1": "many hosts",
    "::ffff:10.0.0.7": "the IPv4 address 10.0.0.7",
    "fd00::7::1": "no IPv6",
    "[fd00::7": "no IPv6",
    "[gpu-7]": "no IPv6",
    "fd00::gpu": "no IPv6",
    "gpu:8001:8002": "no IPv6",
    "0.0.0.0": "listen",
    "224.0.0.5": "many hosts",
    "256.1.1.1": "no IPv4",
    "10.0.7": "no IPv4",
    "a" * 64 + ".example": "63 letters",
    "a." * 130 + "a": "at most 253",
    "müller.example": "xn--mller-kva.example",
    "gpu-7.example,gpu-8.example": "list",
    "$(hostname)": "variables",
    "${HOST}": "variables",
    "../gpu": "no part of a host name",
    "gpu/7": "no part of a host name",
    "-gpu": "no part of a host name",
    "gpu..example": "no part of a host name",
    "user@gpu": "no part of a host name",
}


def deployment(**changes: Any) -> dict[str, Any]:
    """Two classes of one server each, on one host."""
    cluster: dict[str, Any] = {
        "base_port": 18000,
        "gpu_classes": [{"name": "fast"}, {"name": "slow"}],
        "groups": [
            {"gpu": "fast", "gpus_per_server": 1, "servers": [{"name": "f0", "host": "10.0.0.7"}]},
            {"gpu": "slow", "gpus_per_server": 1, "servers": [{"name": "s0", "host": "10.0.0.8"}]},
        ],
        "entry": {"host": "10.0.0.6"},
    }
    model = {
        "name": "net",
        "program": {"factory": "nets:net"},
        "input": {"name": "image", "shape": [3, 8, 8]},
        "slo_ms": 100,
    }
    return {"name": "addresses", "cluster": cluster | changes, "models": [model]}


@pytest.mark.parametrize("host", GOOD)
def test_a_host_that_can_be_called_is_taken_as_it_is(host: str) -> None:
    assert checked_host(host) == host
    parsed = parse_deployment(deployment(entry={"host": host}), "d.yaml")
    assert parsed.to_cluster().entry.host == host


@pytest.mark.parametrize("host", BAD)
def test_any_other_is_refused_with_field_value_and_reason(host: str) -> None:
    group = {"gpu": "slow", "gpus_per_server": 1}
    for owner, changes in {
        "cluster.entry.host": {"entry": {"host": host}},
        "cluster.groups.0.host": {"groups": [group | {"count": 1, "host": host}]},
        "cluster.groups.0.servers.0.host": {"groups": [group | {"servers": [{"name": "s0", "host": host}]}]},
    }.items():
        with pytest.raises(DeploymentError) as refused:
            parse_deployment(deployment(**changes), "d.yaml")
        assert str(refused.value).startswith(f"d.yaml: {owner}: ")
        assert BAD[host] in str(refused.value)
        assert "wanted: a name such as" in str(refused.value)


@pytest.mark.parametrize(
    ("host", "kept"),
    [("::1", "::1"), ("[::1]", "::1"), ("FD00:5:0:0::17", "fd00:5::17"), ("0:0:0:0:0:0:0:1", "::1"),
     ("2001:db8::10.0.0.7", "2001:db8::a00:7")],
)  # fmt: skip
def test_an_ipv6_address_is_kept_in_its_one_form(host: str, kept: str) -> None:
    parsed = parse_deployment(deployment(entry={"host": host}), "d.yaml")
    assert parsed.to_cluster().entry.host == kept
    assert checked_host(kept) == kept


@pytest.mark.parametrize(
    ("host", "at", "http", "grpc"),
    [
        ("10.0.0.7", "10.0.0.7:80", "--http-address=10.0.0.7", "--grpc-address=10.0.0.7"),
        ("gpu-7", "gpu-7:80", "--http-address=gpu-7", "--grpc-address=gpu-7"),
        ("fd00::7", "[fd00::7]:80", "--http-address=ipv6:[fd00::7]", "--grpc-address=[fd00::7]"),
    ],
)
def test_addresses_are_written_as_urls_and_tritonserver_want_them(
    host: str, at: str, http: str, grpc: str
) -> None:
    assert authority(host, 80) == at
    assert address_flag("http", host) == http
    assert address_flag("metrics", host) == http.replace("http", "metrics", 1)
    assert address_flag("grpc", host) == grpc


@given(st.one_of(st.text(max_size=40), st.ip_addresses(v=6).map(str)))
def test_any_text_is_a_host_or_one_line(host: str) -> None:
    try:
        kept = checked_host(host)
        fault = "" if kept == host or ":" in kept else "changed"
    except ValueError as refused:
        fault = str(refused).partition(";")[0]
        assert fault
    assert "\n" not in fault
    assert fault != "changed"


def servers(*specs: dict[str, Any], gpu: str = "slow") -> dict[str, Any]:
    return {"gpu": gpu, "gpus_per_server": 1, "servers": list(specs)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (  # by base_port for one, by hand for the other
            {"groups": [servers({"name": "f0", "host": "10.0.0.7"}),
                        servers({"name": "s0", "host": "10.0.0.7", "http_port": 18006})]},
            "port 18006 of 10.0.0.7 is grpc_port of server 'f0' and http_port of server 's0'",
        ),
        (
            {"groups": [servers({"name": "s2", "host": "h", "http_port": 8000, "grpc_port": 8000})]},
            "port 8000 of h is http_port of server 's2' and grpc_port of server 's2'",
        ),
        (
            {"groups": [servers({"name": "s", "host": "localhost", "grpc_port": 18003})],
             "entry": {"host": "127.0.0.1"}},
            "port 18003 of 127.0.0.1 is grpc_port of server 's' and the feedback port of model 'net'",
        ),
        (
            {"groups": [servers({"name": "a", "host": "[fd00::7]", "http_port": 9000},
                                {"name": "b", "host": "fd00:0::7", "grpc_port": 9000})]},
            "port 9000 of fd00::7 is http_port of server 'a' and grpc_port of server 'b'",
        ),
        ({"entry": {"host": "h", "feedback_port": 65535, "http_port": 65535}}, "port 65535 of h"),
        ({"base_port": 60000, "groups": [{"gpu": "slow", "gpus_per_server": 1, "count": 2000}]},
         "ports end at 65535"),
    ],
)  # fmt: skip
def test_a_port_that_two_have_on_one_host_is_found_when_the_file_is_read(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DeploymentError) as refused:
        parse_deployment(deployment(**changes), "d.yaml")
    assert said in str(refused.value)


def test_the_same_port_on_two_hosts_is_fine() -> None:
    groups = [
        servers({"name": "a", "host": "10.0.0.7", "http_port": 9000}),
        servers({"name": "b", "host": "10.0.0.8", "http_port": 9000}),
    ]
    cluster = parse_deployment(deployment(groups=groups), "d.yaml").to_cluster()
    assert [server.http_port for server in cluster.servers] == [9000, 9000]
