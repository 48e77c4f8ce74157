"""StatefulSets and how many of their pods may be evicted at once.

StatefulSets, not Deployments, because a server's name stands for its workers: a StatefulSet never runs two
pods of one name, where a Deployment would start the new one beside the old. Pod i of a group is its i-th
server in deployment.json; servers.json says the same, and the Service of that server picks that pod.
"""

from __future__ import annotations

from model_repo_generator.kubernetes.fleet import Fleet, ServerGroup
from model_repo_generator.kubernetes.options import KubernetesOptions
from model_repo_generator.kubernetes.pods import Plain, pod_template, selector, set_name


def pod_name(fleet: Fleet, group: ServerGroup, index: int) -> str:
    """The pod of the group's server number `index`."""
    return f"{set_name(fleet, group)}-{index}"


def stateful_set(fleet: Fleet, group: ServerGroup, options: KubernetesOptions) -> Plain:
    """All servers of a group."""
    name = set_name(fleet, group)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "labels": selector(fleet, group)},
        "spec": {
            "replicas": len(group.servers),
            "serviceName": name,
            # Servers do not wait for one another.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": selector(fleet, group)},
            "template": pod_template(fleet, group, options),
        },
    }


def disruption_budget(fleet: Fleet, group: ServerGroup, options: KubernetesOptions) -> Plain:
    """One server of a group at a time: pools span two where they can, and entries stand in for each other. A
    lone entry server stays.
    """
    keep = group.is_entry and len(group.servers) == 1 and not options.entry_evictable
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": set_name(fleet, group), "labels": selector(fleet, group)},
        "spec": {
            "maxUnavailable": 0 if keep else 1,
            # A pod that does not serve anyway may be evicted.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(fleet, group)},
        },
    }
