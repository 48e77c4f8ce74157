"""What several entries need to keep who owns which shard: rights on Lease objects, the way to their store.

Rules
- Entries' pods alone have a service account, and it may do nothing but read and write Lease objects of its
  namespace. Roles cannot bound which: names of objects that are to be created are not known to them.
- Leases in a file are of one host, and pods may be on any.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from model_repo_generator.kubernetes.fleet import Fleet
from model_repo_generator.kubernetes.names import BundleFault, dns_label
from model_repo_generator.kubernetes.options import KubernetesOptions
from planner.leases import LeasesAt

Plain = dict[str, Any]


def check_leases(fleet: Fleet, options: KubernetesOptions) -> None:
    """Raises BundleFault where the entries' pods could not reach their leases."""
    leases = fleet.manifest.leases
    if leases is None:
        return
    if leases.kind == "file":
        raise BundleFault(
            f"leases: kind is 'file' and there are {len(fleet.manifest.entries)} entries, which may be on "
            "any nodes; give 'leases: {kind: kubernetes}' in the deployment file, or etcd with its endpoints"
        )
    if leases.kind == "kubernetes" and leases.namespace and leases.namespace != options.namespace:
        raise BundleFault(
            f"leases.namespace: {leases.namespace!r}, and the bundle's is {options.namespace!r}; leave it "
            "out: pods keep leases in their own namespace"
        )


def uses_lease_objects(fleet: Fleet) -> bool:
    """Whether entries call the API server."""
    return fleet.manifest.leases is not None and fleet.manifest.leases.kind == "kubernetes"


def account(fleet: Fleet) -> str:
    """The service account of the entries' pods."""
    return dns_label(f"{fleet.manifest.deployment}-entries", "deployment")


def lease_rights(fleet: Fleet, labels: dict[str, str]) -> list[Plain]:
    """Service account, role, and who has it."""
    name = account(fleet)
    metadata = {"name": name, "labels": labels}
    group = "rbac.authorization.k8s.io"
    rule = {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "list", "create", "update"],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata,
            "automountServiceAccountToken": False,
        },
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        },
    ]


def ways_to_store(leases: LeasesAt | None, options: KubernetesOptions) -> list[Plain]:
    """What entries' pods may call for their leases, beside each other: ports, for addresses are not known."""
    if leases is None:
        return []
    ports = (
        options.api_server_ports
        if leases.kind == "kubernetes"
        else sorted({urlsplit(endpoint).port or 0 for endpoint in leases.endpoints})
    )
    return [{"ports": [{"protocol": "TCP", "port": port} for port in ports]}] if ports else []
