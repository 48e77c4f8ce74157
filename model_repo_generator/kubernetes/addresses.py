"""Whether a fleet's addresses can work in a cluster, and which ones to declare.

Rules
- A server's host is the name of its own Service in the deployment's namespace: one DNS label, alone or
  followed by the namespace as cluster DNS has it. The Service has no address of its own, so the name is the
  pod's.
- Not the pod's own DNS name: that counts pods without gaps, and a plan may use servers 0, 1 and 5.
- All servers may have the same three ports, and pods of one template must.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from model_repo_generator import naming
from model_repo_generator.kubernetes.fleet import Fleet, page_ports, ports_of
from model_repo_generator.kubernetes.names import BundleFault, dns_label, is_dns_label
from model_repo_generator.kubernetes.options import KubernetesOptions
from planner.deployment import Deployment
from planner.manifest import ServerAddress

HTTP_PORT, GRPC_PORT, METRICS_PORT, FEEDBACK_PORT = 8000, 8001, 8002, 8100
LOWEST_PORT = 1024
"""Pods do not run as root and may not bind lower ones."""


def service_of(server: ServerAddress) -> str:
    """The Service that a checked server's host names."""
    return server.host.partition(".")[0]


def check_addresses(fleet: Fleet, options: KubernetesOptions) -> None:
    """Raises BundleFault with one line per server that could not be reached as deployment.json says."""
    faults = [
        *_host_faults(fleet, options),
        *_own_port_faults(fleet),
        *_template_faults(fleet),
        *_feedback_faults(fleet),
    ]
    if faults:
        raise BundleFault(
            "\n".join(
                [
                    *faults,
                    "deployment.yaml: give every server of a cluster a host of its own, and all the same "
                    f"ports, e.g. {_example(fleet)}; `ppipe kubernetes --hosts` prints them all",
                ]
            )
        )


def check_ports(fleet: Fleet) -> None:
    """Raises BundleFault with one line per server that could not listen as deployment.json says."""
    faults = [*_own_port_faults(fleet), *_feedback_faults(fleet)]
    if faults:
        raise BundleFault("\n".join(faults))


def suggested_cluster(deployment: Deployment) -> dict[str, Any]:
    """`cluster.groups` and `cluster.entry` as a deployment file for Kubernetes would have them."""
    groups: list[dict[str, Any]] = []
    cluster = deployment.to_cluster()
    names = iter(cluster.servers)
    for spec in deployment.cluster.groups:
        count = len(spec.servers) or spec.count or 0
        group = spec.model_dump(exclude={"servers", "count", "host"}, exclude_none=True)
        group["servers"] = [
            {"name": server.name, **_address(f"{deployment.name}-{server.name}")}
            for _, server in zip(range(count), names, strict=False)
        ]
        groups.append(group)
    if len(cluster.entries) > 1:
        entries = [
            {
                "name": entry.name,
                **_address(f"{deployment.name}-{entry.name}"),
                "feedback_port": FEEDBACK_PORT,
            }
            for entry in cluster.entries
        ]
        return {"groups": groups, "entries": entries}
    entry = {**_address(f"{deployment.name}-{naming.ENTRY_GROUP}"), "feedback_port": FEEDBACK_PORT}
    return {"groups": groups, "entry": entry}


def _address(name: str) -> dict[str, Any]:
    return {
        "host": dns_label(name, f"server {name}"),
        "http_port": HTTP_PORT,
        "grpc_port": GRPC_PORT,
        "metrics_port": METRICS_PORT,
    }


def _host_faults(fleet: Fleet, options: KubernetesOptions) -> Iterator[str]:
    owners: dict[str, str] = {}
    for server in fleet.servers:
        label, _, domain = server.host.partition(".")
        if not is_dns_label(label):
            yield (
                f"server {server.name}: host {server.host!r} is no name that a Service can have (lower-case "
                "letters, digits and '-', a letter first)"
            )
        elif label == "localhost":
            yield f"server {server.name}: host 'localhost' is each pod's own address, not this server's"
        elif domain and domain not in _domains(options):
            yield (
                f"server {server.name}: host {server.host!r} is not in this bundle's namespace; after "
                f"{label!r} may come nothing"
                + "".join(f" or '.{known}'" for known in _domains(options))
                + ("" if options.namespace else " (a namespace was not given)")
            )
        other = owners.setdefault(label, server.name) if is_dns_label(label) else server.name
        if other != server.name:
            yield f"servers {other} and {server.name}: both have host {label!r}, but each is a pod of its own"


def _domains(options: KubernetesOptions) -> tuple[str, ...]:
    if options.namespace is None:
        return ()
    base = options.namespace
    return base, f"{base}.svc", f"{base}.svc.{options.cluster_domain}"


def _own_port_faults(fleet: Fleet) -> Iterator[str]:
    for server in fleet.servers:
        ports = ports_of(server)
        if len(set(ports)) < len(ports) or min(ports) < LOWEST_PORT:
            yield (
                f"server {server.name}: http, grpc and metrics port are {ports}; expected three different "
                f"ones from {LOWEST_PORT} up"
            )


def _template_faults(fleet: Fleet) -> Iterator[str]:
    first: dict[tuple[str, int], ServerAddress] = {}
    for group in fleet.groups:
        server = group.servers[0]
        other = first.setdefault((group.group, group.gpus), server)
        if ports_of(other) != ports_of(server):
            yield (
                f"servers {other.name} and {server.name}: ports {ports_of(other)} and {ports_of(server)} "
                "differ, but both would be pods of one template"
            )

    yield from _entry_faults(fleet)


def _entry_faults(fleet: Fleet) -> Iterator[str]:
    """Pods of one template have one set of ports."""
    first, *others = fleet.manifest.entry_ports
    for other in others:
        one, two = ((*ports_of(each.server), *each.feedback_ports.values()) for each in (first, other))
        if one != two:
            yield (
                f"entries {first.server.name} and {other.server.name}: ports {one} and {two} differ, but "
                "both would be pods of one template; give all entries the same ports, feedback_port too"
            )


def _feedback_faults(fleet: Fleet) -> Iterator[str]:
    for entry in fleet.manifest.entries:
        ports = page_ports(fleet.manifest.seen_from(entry.name))
        if len(set(ports)) < len(ports) or min(ports, default=LOWEST_PORT) < LOWEST_PORT:
            yield (
                f"{entry.name}: feedback ports, and those of cascades' pages, {list(ports)} must be "
                f"different and from {LOWEST_PORT} up"
            )


def _example(fleet: Fleet) -> str:
    server = fleet.servers[-1]
    try:
        host = dns_label(f"{fleet.manifest.deployment}-{server.name}", "")
    except BundleFault:
        host = "gpu-0"
    return (
        f"{{name: {server.name}, host: {host}, http_port: {HTTP_PORT}, grpc_port: {GRPC_PORT}, "
        f"metrics_port: {METRICS_PORT}}}"
    )
