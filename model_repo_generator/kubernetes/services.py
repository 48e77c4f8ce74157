"""Services: names of servers and groups, and an address for clients. And who may call whom.

Rules
- A server's Service publishes its pod before it is ready: a dispatcher listens on its own name
  while it loads.
- Stage servers are called by pods of their deployment only.
"""

from __future__ import annotations

from model_repo_generator.kubernetes.addresses import service_of
from model_repo_generator.kubernetes.fleet import Fleet, ServerGroup, page_ports, ports_of
from model_repo_generator.kubernetes.lease_rights import ways_to_store
from model_repo_generator.kubernetes.names import check_distinct, dns_label
from model_repo_generator.kubernetes.options import KubernetesOptions, ObjectStoreSource
from model_repo_generator.kubernetes.pods import Plain, open_ports, selector, set_name
from model_repo_generator.kubernetes.workloads import pod_name

POD_LABEL = "statefulset.kubernetes.io/pod-name"
"""Set by Kubernetes on every pod of a StatefulSet."""


def services(fleet: Fleet, options: KubernetesOptions) -> list[Plain]:
    """All Services: clients', then group by group. Raises BundleFault where two would have one name."""
    made = [client_service(fleet, options)]
    owners = [(made[0]["metadata"]["name"], "the Service for clients")]
    for group in fleet.groups:
        made.append(_group_service(fleet, group))
        owners.append((set_name(fleet, group), f"the Service of group {group.group}"))
        for index, server in enumerate(group.servers):
            made.append(_server_service(fleet, group, index))
            owners.append((service_of(server), f"server {server.name}"))
    check_distinct(owners)
    return made


def client_service(fleet: Fleet, options: KubernetesOptions) -> Plain:
    """Where clients send frames: KServe v2 over HTTP and gRPC."""
    entry = fleet.groups[0]
    name = dns_label(fleet.manifest.deployment, "deployment")
    service = _service(name, fleet, entry, selector(fleet, entry))
    service["spec"]["type"] = options.entry_service
    service["spec"]["ports"] = _ports(fleet, entry)[:2]
    return service


def network_policies(fleet: Fleet, options: KubernetesOptions) -> list[Plain]:
    """Inside the deployment all may talk; from outside clients reach the entry, Prometheus the metrics. Pods
    call nobody else, but for entries that keep their leases in a store.
    """
    entry = fleet.groups[0]
    client_ports = [{"protocol": "TCP", "port": port} for port in ports_of(entry.servers[0])[:2]]
    members: Plain = {"podSelector": {"matchLabels": selector(fleet)}}
    base = dns_label(fleet.manifest.deployment, "deployment")
    policies = [
        _policy(f"{base}-inside", fleet, selector(fleet), [{"from": [members]}], _outward(members, options)),
        _policy(f"{base}-clients", fleet, selector(fleet, entry), [{"ports": client_ports}]),
    ]
    if store := ways_to_store(fleet.manifest.leases, options):
        policies.append(_policy(f"{base}-leases", fleet, selector(fleet, entry), None, store))
    for group in fleet.groups:
        pods = selector(fleet, group)
        name = f"{set_name(fleet, group)}-metrics"
        policies.append(_policy(name, fleet, pods, [_scrape(fleet, group, options)]))
    return policies


def _scrape(fleet: Fleet, group: ServerGroup, options: KubernetesOptions) -> Plain:
    """Of each pod its own metrics ports alone, for Prometheus: another group has inference on that number."""
    ports = {ports_of(group.servers[0])[2]}
    if group.is_entry:
        ports.update(page_ports(fleet.manifest))
    scrape: Plain = {"ports": [{"protocol": "TCP", "port": port} for port in sorted(ports)]}
    if options.monitoring.namespace is not None:
        name = {"kubernetes.io/metadata.name": options.monitoring.namespace}
        scrape["from"] = [{"namespaceSelector": {"matchLabels": name}}]
    return scrape


def _outward(members: Plain, options: KubernetesOptions) -> list[Plain]:
    """What pods may call: each other, the cluster's name service and, where the repository is copied from one
    at the start, the object store.
    """
    names: Plain = {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
        "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
    }
    source = options.repository
    store: Plain = {"ports": [{"protocol": "TCP", "port": getattr(source, "port", 0)}]}
    return [{"to": [members]}, names, *([store] if isinstance(source, ObjectStoreSource) else [])]


def _policy(
    name: str,
    fleet: Fleet,
    pods: dict[str, str],
    ingress: list[Plain] | None,
    egress: list[Plain] | None = None,
) -> Plain:
    spec: Plain = {"podSelector": {"matchLabels": pods}, "policyTypes": []}
    for kind, ways in (("ingress", ingress), ("egress", egress)):
        if ways is not None:
            spec["policyTypes"].append(kind.capitalize())
            spec[kind] = ways
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": dns_label(name, "deployment"), "labels": selector(fleet)},
        "spec": spec,
    }


def _group_service(fleet: Fleet, group: ServerGroup) -> Plain:
    """Kubernetes wants one per StatefulSet; it also answers with all servers of the group."""
    return _headless(_service(set_name(fleet, group), fleet, group, selector(fleet, group)))


def _server_service(fleet: Fleet, group: ServerGroup, index: int) -> Plain:
    picked = {**selector(fleet, group), POD_LABEL: pod_name(fleet, group, index)}
    service = _service(service_of(group.servers[index]), fleet, group, picked)
    if group.is_entry:
        service["spec"]["ports"] += [
            {"name": f"notices-{number}", "port": model.feedback_port, "protocol": "UDP"}
            for number, model in enumerate(fleet.manifest.models)
        ]
    return _headless(service)


def _headless(service: Plain) -> Plain:
    service["spec"] |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return service


def _service(name: str, fleet: Fleet, group: ServerGroup, picked: dict[str, str]) -> Plain:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": selector(fleet, group)},
        "spec": {"selector": picked, "ports": _ports(fleet, group)},
    }


def _ports(fleet: Fleet, group: ServerGroup) -> list[Plain]:
    return [
        {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
        for name, port in open_ports(fleet, group)
    ]
