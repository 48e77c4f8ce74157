"""What the Prometheus operator scrapes, and the alerts as it takes them: PodMonitor and PrometheusRule."""

from __future__ import annotations

from model_repo_generator.kubernetes.fleet import Fleet, page_ports
from model_repo_generator.kubernetes.names import dns_label
from model_repo_generator.kubernetes.options import KubernetesOptions
from model_repo_generator.kubernetes.pods import CONTAINER, Plain, page_port, selector, set_name
from model_repo_generator.monitoring.alerts import RESTARTS_WINDOW, rule_group
from model_repo_generator.monitoring.metric_names import RESTARTS, TARGET_LABELS, quoted

_MOST_RESTARTS = 2
"""Within RESTARTS_WINDOW."""


def pod_monitor(fleet: Fleet, options: KubernetesOptions) -> Plain:
    """Scrapes every server of the deployment, and the page of every dispatcher and cascade on the entry."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": _metadata(fleet, options),
        "spec": {
            "selector": {"matchLabels": selector(fleet)},
            "podTargetLabels": list(TARGET_LABELS),
            "podMetricsEndpoints": [
                {"port": port, "path": "/metrics", "interval": options.monitoring.interval}
                for port in ("metrics", *map(page_port, range(len(page_ports(fleet.manifest)))))
            ],
        },
    }


def prometheus_rule(fleet: Fleet, options: KubernetesOptions) -> Plain:
    """All alerts of a deployment."""
    pods = "|".join(f"{set_name(fleet, group)}-[0-9]+" for group in fleet.groups)
    restarts = f"{RESTARTS}{{container={quoted(CONTAINER)},pod=~{quoted(pods)}}}[{RESTARTS_WINDOW}]"
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": _metadata(fleet, options),
        "spec": {"groups": [rule_group(fleet.manifest, f"increase({restarts}) > {_MOST_RESTARTS}")]},
    }


def _metadata(fleet: Fleet, options: KubernetesOptions) -> Plain:
    name = dns_label(fleet.manifest.deployment, "deployment")
    return {"name": name, "labels": {**selector(fleet), **options.monitoring.labels}}
