"""deployment.json + deployment file + plan + options -> a kustomize bundle, {relative path: text}. Pure.

    kustomization.yaml
    servers-<group>.yaml      one StatefulSet per server group: the entry, then each GPU class
    services.yaml             one name per server, one per group, one for clients
    disruption.yaml           how many servers of a group may be evicted at once
    network.yaml              who may call whom
    leases.yaml               the entries' service account and its rights, where leases are Lease objects
    operator.yaml             ppipe operate, where that is wanted
    monitoring.yaml           scrape and alerts; dashboard.json for Grafana
    launch/                   what containers run: launch.py, agent.py, closer.py, probe.py, servers.json
The repository itself is not in it: pods read it from a volume or an object store.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from model_repo_generator.kubernetes.addresses import check_addresses
from model_repo_generator.kubernetes.fleet import Fleet, read_fleet
from model_repo_generator.kubernetes.launch import launch_files, server_settings
from model_repo_generator.kubernetes.lease_rights import check_leases, lease_rights, uses_lease_objects
from model_repo_generator.kubernetes.memory import MIB
from model_repo_generator.kubernetes.monitoring import pod_monitor, prometheus_rule
from model_repo_generator.kubernetes.names import BundleFault, check_distinct, dns_label
from model_repo_generator.kubernetes.operator import operator_deployment, operator_of
from model_repo_generator.kubernetes.options import KubernetesOptions
from model_repo_generator.kubernetes.pods import (
    Plain,
    common_spec,
    container_rights,
    launch_config,
    selector,
    set_name,
    tls_volumes,
)
from model_repo_generator.kubernetes.services import network_policies, services
from model_repo_generator.kubernetes.workloads import disruption_budget, pod_name, stateful_set
from model_repo_generator.monitoring.dashboard import dashboard_json
from model_repo_generator.yaml_text import dump
from planner.cluster import Executor
from planner.deployment import Deployment
from planner.manifest import DeploymentManifest
from planner.plan import Plan

KUSTOMIZATION = "kustomization.yaml"
LAUNCH = "launch"
DASHBOARD = "dashboard.json"
_MIG = re.compile(r"[^/]+/mig-")
"""Resources that NVIDIA's device plugin gives MIG devices, by its 'mixed' strategy."""


def render_bundle(
    manifest: DeploymentManifest, deployment: Deployment, plan: Plan, options: KubernetesOptions
) -> dict[str, str]:
    """Raises BundleFault, NameFault: ValueErrors that say what does not fit and what would."""
    fleet = read_fleet(manifest, deployment, plan)
    operator = operator_of(options)
    check_addresses(fleet, options)
    check_leases(fleet, options)
    _check_options(fleet, deployment, options)
    check_distinct((set_name(fleet, group), f"group {group.group}") for group in fleet.groups)
    documents: dict[str, list[Plain]] = {
        f"servers-{set_name(fleet, group)}.yaml": [stateful_set(fleet, group, options)]
        for group in fleet.groups
    }
    documents["services.yaml"] = services(fleet, options)
    documents["disruption.yaml"] = [disruption_budget(fleet, group, options) for group in fleet.groups]
    documents["network.yaml"] = network_policies(fleet, options)
    if uses_lease_objects(fleet):
        documents["leases.yaml"] = lease_rights(fleet, selector(fleet))
    if operator is not None:
        documents["operator.yaml"] = [
            operator_deployment(
                fleet,
                options,
                *operator,
                common_spec(options),
                container_rights(),
                tls_volumes(fleet, options),
            )
        ]
    if options.monitoring.enabled:
        documents["monitoring.yaml"] = [pod_monitor(fleet, options), prometheus_rule(fleet, options)]
    launch = {f"{LAUNCH}/{name}": text for name, text in launch_files(_settings(fleet, options)).items()}
    files = {path: dump(objects) for path, objects in documents.items()}
    files |= launch
    if options.monitoring.enabled:
        files[DASHBOARD] = dashboard_json(manifest)
    files[KUSTOMIZATION] = dump([_kustomization(fleet, options, list(documents), list(launch))])
    return dict(sorted(files.items()))


def _kustomization(
    fleet: Fleet, options: KubernetesOptions, resources: list[str], launch: list[str]
) -> Plain:
    """Launch files become a ConfigMap with a hash in its name: when they change, pods are made anew."""
    generated: list[Plain] = [{"name": launch_config(fleet), "files": launch}]
    if options.monitoring.enabled:
        generated.append(
            {
                "name": dns_label(f"{fleet.manifest.deployment}-dashboard", "deployment"),
                "files": [DASHBOARD],
                "options": {
                    "disableNameSuffixHash": True,
                    "labels": dict(options.monitoring.dashboard_labels),
                },
            }
        )
    found: Plain = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    if options.namespace is not None:
        found["namespace"] = options.namespace
    return {**found, "resources": resources, "configMapGenerator": generated}


def _settings(fleet: Fleet, options: KubernetesOptions) -> dict[str, Plain]:
    return {
        pod_name(fleet, group, index): server_settings(
            fleet,
            group,
            server,
            bind=None,
            shm_default_bytes=options.shm_default_mib * MIB,
            triton_version=options.triton_version or "",
            old_triton=options.old_triton,
            operated=options.operator is not None,
        )
        for group in fleet.groups
        for index, server in enumerate(group.servers)
    }


def _check_options(fleet: Fleet, deployment: Deployment, options: KubernetesOptions) -> None:
    # Of servers without work too: the next plan may use them.
    classes = [gpu_class.name for gpu_class in deployment.cluster.gpu_classes]
    sizes = [f"{server.gpu}-x{server.gpu_count}" for server in deployment.to_cluster().servers]
    pools = [group.pool for group in fleet.groups if group.gpus]
    known = list(dict.fromkeys((*classes, *sizes, *pools)))
    for field in ("node_selectors", "gpu_resources"):
        for name in getattr(options, field):
            if name not in known:
                raise BundleFault(f"{field}: no GPU class or size {name!r}; there are {', '.join(known)}")
    for group in fleet.groups:
        resource = group.chosen(options.gpu_resources, options.gpu_resource)
        if group.gpus > 1 and _MIG.match(resource):
            raise BundleFault(
                f"gpu_resources: {resource} for {group.pool}: CUDA shows a process one MIG device at most, "
                f"and these servers have {group.gpus}; make a server for each (gpus_per_server: 1)"
            )


def notes(
    manifest: DeploymentManifest, deployment: Deployment, plan: Plan, options: KubernetesOptions
) -> Iterator[str]:
    """What is legal and may not be meant: a line each."""
    chosen: dict[str, list[tuple[str, Plain]]] = {}
    for group in read_fleet(manifest, deployment, plan).groups:
        if group.executor is Executor.CUDA and not group.is_entry:
            picks = {
                "selector": dict(group.chosen(options.node_selectors, {})),
                "resource": group.chosen(options.gpu_resources, options.gpu_resource),
            }
            chosen.setdefault(group.group, []).append((group.pool, picks))
    for pools in chosen.values():
        selectors = [picks for _, picks in pools]
        if len(pools) > 1 and any(selector in selectors[:index] for index, selector in enumerate(selectors)):
            yield (
                f"node_selectors: {' and '.join(pool for pool, _ in pools)} have the same selector, so a pod "
                f"of one may take a node that was meant for another's; give each a selector of its own"
            )
