"""What a deployment file may not say of several entries and their leases: a line that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from planner.deployment import DeploymentError, parse_deployment
from planner.deployment.leases import LeasesSpec
from planner.leases import LeasesAt
from tests.kubernetes.test_entries import cluster_data

ETCD = {"kind": "etcd", "endpoints": ["http://10.0.0.5:2379"]}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"name": "north"}, "entries: the name 'north' is used more than once; names must be unique"),
        (
            {"host": "street-north"},
            "port 8001 of street-north is grpc_port of server 'north' and grpc_port of",
        ),
        ({"name": "L4-0"}, "L4-0"),
        ({"host": ""}, "entries"),
        ({"cores": 0}, "cores"),
    ],
)
def test_two_entries_are_two(second: dict[str, Any], said: str) -> None:
    with pytest.raises(DeploymentError, match=said):
        parse_deployment(cluster_data(ETCD, south=second), "test")


@pytest.mark.parametrize("entries", [0, 1_000, True, "two", [{"host": "a"}]])
def test_entries_are_a_list_or_a_count(entries: Any) -> None:
    data = cluster_data(ETCD)
    data["cluster"]["entries"] = entries
    with pytest.raises(DeploymentError, match=r"cluster\.entries"):
        parse_deployment(data, "test")


@pytest.mark.parametrize(
    ("leases", "said"),
    [
        ({"kind": "redis"}, r"leases\.kind: Input should be 'file', 'etcd' or 'kubernetes'"),
        ({"kind": "etcd"}, "endpoints: none; expected the URLs of etcd's members"),
        ({**ETCD, "endpoints": ["10.0.0.5"]}, "endpoints: '10.0.0.5'; expected a URL such as http://"),
        (
            {**ETCD, "endpoints": ["http://e:23x"]},
            "endpoints: 'http://e:23x'; expected a URL such as http://",
        ),
        ({**ETCD, "endpoints": ["http://e:2379/v3"]}, "expected a URL such as http://10.0.0.5:2379"),
        ({**ETCD, "certificate": "/a.pem"}, "certificate and key: give both, or none"),
        ({"kind": "file", "ca": "/a.pem"}, "kind is 'file', which has neither endpoints nor certificates"),
        ({"kind": "kubernetes", "endpoints": ["http://a:1"]}, "kind is 'kubernetes', which has neither"),
        ({"kind": "kubernetes", "namespace": "Some where"}, "namespace: 'Some where'; expected at most 63"),
        ({**ETCD, "namespace": "street"}, "namespace: kind is 'etcd'; kind 'kubernetes' has one"),
    ],
)
def test_leases_that_cannot_be_are_refused(leases: dict[str, Any], said: str) -> None:
    with pytest.raises(DeploymentError, match=said):
        parse_deployment(cluster_data(leases), "test")


def test_leases_are_as_the_file_says() -> None:
    assert LeasesSpec(kind="kubernetes", namespace="street").to_leases() == LeasesAt(
        "kubernetes", namespace="street"
    )
    assert LeasesSpec.model_validate(ETCD).to_leases() == LeasesAt("etcd", ("http://10.0.0.5:2379",))
