"""For a Prometheus beside servers that no cluster starts: what it scrapes and alerts on, as files. Pure.

    prometheus.yml    a whole configuration; whoever has one takes its job and its line of rules
    targets.json      the servers and the dispatchers' pages, with the labels that all queries ask for
    alerts.yml        the alerts
    dashboard.json    for Grafana

Labels are those that the Prometheus operator puts on what it scrapes from pods, so that alerts and dashboard
are the same in a cluster and without one. `pod` is then the server's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from model_repo_generator.monitoring.alerts import RESTARTS_WINDOW, Plain, rule_group
from model_repo_generator.monitoring.dashboard import dashboard_json
from model_repo_generator.monitoring.metric_names import GROUP_LABEL, INSTANCE_LABEL, UP, select
from model_repo_generator.yaml_text import dump
from planner.addresses import authority
from planner.manifest import DeploymentManifest, ServerAddress

CONFIGURATION, TARGETS, ALERTS, DASHBOARD = "prometheus.yml", "targets.json", "alerts.yml", "dashboard.json"
_MOST_CHANGES = 4
"""Of `up` within RESTARTS_WINDOW: two for each restart."""


class IntervalError(ValueError):
    """No interval that Prometheus takes."""


def render_prometheus(manifest: DeploymentManifest, interval: str = "15s") -> dict[str, str]:
    """{file: text}. interval: between two looks at a page, and between two looks at the alerts.

    Raises IntervalError.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,4}(ms|s|m)", interval):
        raise IntervalError(f"--interval {interval}: expected a time such as 15s or 1m")
    deployment = manifest.deployment
    job = {"job_name": f"ppipe-{deployment}", "file_sd_configs": [{"files": [TARGETS]}]}
    configuration = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [ALERTS],
        "scrape_configs": [job],
    }
    changes = f"changes({select(UP, deployment)}[{RESTARTS_WINDOW}])"
    alerts = rule_group(manifest, f"max by (pod) ({changes}) > {_MOST_CHANGES}")
    return {
        CONFIGURATION: dump([configuration]),
        TARGETS: json.dumps(list(_targets(manifest)), indent=1) + "\n",
        ALERTS: dump([{"groups": [alerts]}]),
        DASHBOARD: dashboard_json(manifest),
    }


def _targets(manifest: DeploymentManifest) -> Iterator[Plain]:
    """An entry per server: Triton's own page, and on entries that of each dispatcher and each cascade."""
    pages = {
        entry.server.name: [
            authority(entry.server.host, port)
            for port in (*entry.feedback_ports.values(), *manifest.cascade_ports(entry.server.name).values())
        ]
        for entry in manifest.entry_ports
    }
    for server in manifest.every_server:
        own = authority(server.host, server.metrics_port)
        yield {"targets": [own, *pages.get(server.name, ())], "labels": _labels(manifest, server)}


def _labels(manifest: DeploymentManifest, server: ServerAddress) -> dict[str, str]:
    return {INSTANCE_LABEL: manifest.deployment, GROUP_LABEL: server.group, "pod": server.name}
