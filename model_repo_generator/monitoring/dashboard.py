"""A Grafana dashboard of one deployment, as the JSON that Grafana imports or its sidecar loads from a
ConfigMap.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from model_repo_generator.monitoring.metric_names import (
    ARENA,
    BATCHES,
    DECISION_US,
    DECISIONS,
    DROPPED,
    FAILED_ATTEMPTS,
    FRAMES,
    GROUP_LABEL,
    IN_FLIGHT,
    IN_TIME,
    LATE,
    LATENCY_BUCKET,
    LATENCY_US,
    QUEUE_LENGTH,
    QUEUE_RATIO_COUNT,
    QUEUE_RATIO_SUM,
    STAGE_DRIFT,
    STAGE_RATIO_COUNT,
    STAGE_RATIO_SUM,
    SUPERSEDED,
    TRITON_COMPUTE_US,
    TRITON_FAILURE,
    TRITON_GPU_MEMORY_TOTAL,
    TRITON_GPU_MEMORY_USED,
    TRITON_GPU_UTILISATION,
    TRITON_SUCCESS,
    UP,
    WORKER_BUSY_US,
    WORKER_UP,
    select,
)
from planner.manifest import DeploymentManifest

RATE = "$__rate_interval"
MODEL = 'model=~"$model"'
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """A graph: `queries` are (PromQL, legend)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    stacked: bool = False


def dashboard_json(manifest: DeploymentManifest) -> str:
    """The dashboard's text."""
    name = manifest.deployment
    board = {
        "uid": f"ppipe-{hashlib.sha256(name.encode()).hexdigest()[:16]}",
        "title": f"PPipe {name}",
        "tags": ["ppipe"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables(name)},
        "annotations": {"list": []},
        "panels": [_panel(index, panel) for index, panel in enumerate(panels(name))],
    }
    return json.dumps(board, indent=1) + "\n"


def panels(deployment: str) -> tuple[Panel, ...]:
    """What the dashboard shows: first what clients see, then the scheduler, then the GPUs."""
    return (*_client_panels(deployment), *_scheduler_panels(deployment), *_server_panels(deployment))


def _client_panels(name: str) -> tuple[Panel, ...]:
    frames, in_time, late, spent = (
        _rate("model", select(metric, name, MODEL)) for metric in (FRAMES, IN_TIME, LATE, LATENCY_US)
    )
    superseded = _rate("model", select(SUPERSEDED, name, MODEL))
    wanted = f"({frames} - ({superseded} or 0 * {frames}))"
    buckets = _rate("model, le", select(LATENCY_BUCKET, name, MODEL))
    return (
        Panel("Frames", "reqps", ((frames, "{{model}} offered"), (in_time, "{{model}} in time"))),
        Panel("Within the SLO", "percentunit", ((f"{in_time} / {wanted}", "{{model}}"),)),
        Panel(
            "Dropped and late",
            "reqps",
            (
                (_rate("model, reason", select(DROPPED, name, MODEL)), "{{model}} {{reason}}"),
                (late, "{{model}} late"),
                (superseded, "{{model}} superseded"),
            ),
            stacked=True,
        ),
        Panel("Mean latency", "µs", ((f"{spent} / ({in_time} + {late})", "{{model}}"),)),
        Panel(
            "Latency as a share of the SLO",
            "percentunit",
            tuple(
                (f"histogram_quantile({quantile}, {buckets})", f"{{{{model}}}} p{100 * quantile:g}")
                for quantile in (0.5, 0.95, 0.99)
            ),
        ),
        Panel("Where the SLO goes", "percentunit", _budget_queries(name), stacked=True),
    )


def _budget_queries(name: str) -> tuple[tuple[str, str], ...]:
    """Mean share of the SLO that frames wait, and that each stage uses."""

    def mean(by: str, total: str, count: str) -> str:
        return " / ".join(_rate(by, select(metric, name, MODEL)) for metric in (total, count))

    stage = "model, pipeline, stage"
    return (
        (mean("model", QUEUE_RATIO_SUM, QUEUE_RATIO_COUNT), "{{model}} waiting"),
        (
            mean(stage, STAGE_RATIO_SUM, STAGE_RATIO_COUNT),
            "{{model}} pipeline {{pipeline}} stage {{stage}}",
        ),
    )


def _scheduler_panels(name: str) -> tuple[Panel, ...]:
    spent, handled = (_rate("model", select(metric, name, MODEL)) for metric in (DECISION_US, DECISIONS))
    busy = f"rate({select(WORKER_BUSY_US, name, MODEL)}[{RATE}]) / 1e6"
    failed = _rate("model, kind", select(FAILED_ATTEMPTS, name, MODEL))
    up = f"sum by (model) ({select(WORKER_UP, name, MODEL)})"
    arena = f"sum by (model, state) ({select(ARENA, name, MODEL)})"
    drift = "{{model}} pipeline {{pipeline}} stage {{stage}}"
    return (
        Panel(
            "Waiting frames, batches under way",
            "short",
            (
                (select(QUEUE_LENGTH, name, MODEL), "{{model}} frames"),
                (select(IN_FLIGHT, name, MODEL), "{{model}} batches"),
            ),
        ),
        Panel("Batches by size", "ops", ((_rate("model, size", select(BATCHES, name, MODEL)), "{{size}}"),)),
        Panel("Time per decision", "µs", ((f"{spent} / {handled}", "{{model}}"),)),
        Panel("Failed attempts", "ops", ((failed, "{{model}} {{kind}}"),)),
        Panel("Workers in use", "short", ((up, "{{model}}"),)),
        Panel("Workers busy", "percentunit", ((busy, "{{worker}}"),)),
        Panel("Measured over profiled", "short", ((select(STAGE_DRIFT, name, MODEL), drift),)),
        Panel("Shared memory for hops", "bytes", ((arena, "{{model}} {{state}}"),), stacked=True),
    )


def _server_panels(name: str) -> tuple[Panel, ...]:
    group = GROUP_LABEL
    memory = f"{select(TRITON_GPU_MEMORY_USED, name)} / {select(TRITON_GPU_MEMORY_TOTAL, name)}"
    return (
        Panel("Servers up", "short", ((f"sum by ({group}) ({select(UP, name)})", f"{{{{{group}}}}}"),)),
        Panel(
            "GPU utilisation",
            "percentunit",
            ((select(TRITON_GPU_UTILISATION, name), "{{pod}} {{gpu_uuid}}"),),
        ),
        Panel("GPU memory", "percentunit", ((memory, "{{pod}} {{gpu_uuid}}"),)),
        Panel(
            "Compute time per GPU class",
            "percentunit",
            ((f"{_rate(group, select(TRITON_COMPUTE_US, name))} / 1e6", f"{{{{{group}}}}}"),),
        ),
        Panel(
            "Triton requests",
            "reqps",
            (
                (_rate(group, select(TRITON_SUCCESS, name)), f"{{{{{group}}}}} served"),
                (_rate(group, select(TRITON_FAILURE, name)), f"{{{{{group}}}}} failed"),
            ),
        ),
    )


def _rate(by: str, selected: str) -> str:
    return f"sum by ({by}) (rate({selected}[{RATE}]))"


def _variables(deployment: str) -> list[dict[str, Any]]:
    values = f"label_values({select(FRAMES, deployment)}, model)"
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "model",
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": values, "refId": "models"},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, _COLUMNS)
    custom = {"fillOpacity": 10, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "expr": query,
                "legendFormat": legend,
                "datasource": _DATASOURCE,
            }
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }
