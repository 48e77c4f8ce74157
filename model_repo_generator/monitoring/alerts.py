"""The alerts of a deployment, for every Prometheus: in Kubernetes or not.

Rules
- Annotations are fixed texts: Prometheus expands them as templates, so nothing of a deployment goes in.
- An alert says what a user of the service would notice, or what will make them notice soon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_repo_generator.monitoring.metric_names import (
    ARENA,
    DROPPED,
    FAILED_ATTEMPTS,
    FRAMES,
    IN_TIME,
    LATE,
    OPEN_FRAMES,
    STAGE_DRIFT,
    SUPERSEDED,
    TRITON_GPU_MEMORY_TOTAL,
    TRITON_GPU_MEMORY_USED,
    UP,
    WORKER_UP,
    select,
)
from model_repo_generator.naming import ENTRY_GROUP
from planner.manifest import DeploymentManifest, ModelEntry

Plain = dict[str, Any]
ATTAINMENT = 0.95
"""Share of frames within the SLO below which somebody should look."""
DRIFT = 1.3
"""A stage that takes this many times what was profiled uses up margins that the plan counts on."""
QUIET_RPS = 1.0
"""Below this rate a share says little."""
WINDOW = "5m"
RESTARTS_WINDOW = "15m"


def rule_group(manifest: DeploymentManifest, restarting: str) -> Plain:
    """All alerts, worst first, as Prometheus groups rules.

    restarting: PromQL with a series, labelled `pod`, for each server that was started too often within
    RESTARTS_WINDOW.
    """
    deployment = manifest.deployment
    alerts = [
        *_outage_alerts(deployment),
        *_service_alerts(deployment),
        _overload_alert(deployment, manifest.models),
        *_resource_alerts(deployment, restarting),
    ]
    return {"name": f"ppipe-{deployment}", "rules": alerts}


def _outage_alerts(deployment: str) -> list[Plain]:
    entry = select(UP, deployment, ppipe_group=ENTRY_GROUP)
    # Not the frames that arrived: they are counted by the thread that may be what is stuck.
    waiting = f"sum by (model) (min_over_time({select(OPEN_FRAMES, deployment)}[1m]))"
    ending = " + ".join(
        f"(sum by (model) (rate({select(metric, deployment)}[1m])) or 0 * {waiting})"
        for metric in (IN_TIME, LATE, DROPPED, SUPERSEDED)
    )
    return [
        _alert(
            "PPipeEntryDown",
            f"{entry} == 0 or absent({entry})",
            "1m",
            "critical",
            "The entry server is not there, or a dispatcher on it does not answer: {{ $labels.instance }}.",
        ),
        _alert(
            "PPipeNoWorker",
            f"sum by (model) (rate({select(DROPPED, deployment, reason='no_worker')}[1m])) > 0",
            "1m",
            "critical",
            "{{ $labels.model }}: every pipeline has lost all workers of some stage.",
        ),
        _alert(
            "PPipeDispatcherStuck",
            f"{waiting} > 0 and {ending} == 0",
            "2m",
            "critical",
            "{{ $labels.model }}: frames wait and none is answered or dropped; restart the entry server.",
        ),
    ]


def _service_alerts(deployment: str) -> list[Plain]:
    frames = f"sum by (model) (rate({select(FRAMES, deployment)}[{WINDOW}]))"
    in_time = f"sum by (model) (rate({select(IN_TIME, deployment)}[{WINDOW}]))"
    superseded = f"sum by (model) (rate({select(SUPERSEDED, deployment)}[{WINDOW}]))"
    wanted = f"({frames} - ({superseded} or 0 * {frames}))"
    failures = f"sum by (model, kind) (rate({select(FAILED_ATTEMPTS, deployment)}[{WINDOW}]))"
    return [
        _alert(
            "PPipeAttainmentLow",
            f"({in_time} or 0 * {frames}) / {wanted} < {ATTAINMENT} and {frames} > {QUIET_RPS}",
            "5m",
            "warning",
            "{{ $labels.model }}: {{ $value | humanizePercentage }} of the frames are served within the SLO.",
        ),
        _alert(
            "PPipeWorkerDown",
            f"{select(WORKER_UP, deployment)} == 0",
            "2m",
            "warning",
            "{{ $labels.worker }} of {{ $labels.model }} has not answered for two minutes.",
        ),
        _alert(
            "PPipeHopsFail",
            f"{failures} > 0.1",
            "5m",
            "warning",
            "{{ $labels.model }}: attempts fail ({{ $labels.kind }}) and are made again.",
        ),
        _alert(
            "PPipeStageSlow",
            f"{select(STAGE_DRIFT, deployment)} > {DRIFT}",
            "15m",
            "warning",
            "{{ $labels.model }}, pipeline {{ $labels.pipeline }}, stage {{ $labels.stage }}: batches take "
            "{{ $value | humanize }} times what was profiled; profile and plan again.",
        ),
        _alert(
            "PPipeSlotsQuarantined",
            f"sum by (model, sender) ({select(ARENA, deployment, state='quarantined')}) > 0",
            "10m",
            "warning",
            "{{ $labels.model }}: {{ $labels.sender }} holds shared memory back for a reader that neither "
            "answers nor ends.",
        ),
    ]


def _overload_alert(deployment: str, models: Sequence[ModelEntry]) -> Plain:
    """One alert for all models, each with the rate that was planned for it."""
    beyond = (
        f"sum by (model) (rate({select(FRAMES, deployment, model=model.model)}[{WINDOW}])) "
        f"> {model.served.planned_rps:.3f}"
        for model in models
    )
    return _alert(
        "PPipeBeyondPlan",
        " or ".join(beyond),
        "10m",
        "warning",
        "{{ $labels.model }}: {{ $value | humanize }} frames/s come in, more than was planned for.",
    )


def _resource_alerts(deployment: str, restarting: str) -> list[Plain]:
    used, total = (select(name, deployment) for name in (TRITON_GPU_MEMORY_USED, TRITON_GPU_MEMORY_TOTAL))
    return [
        _alert(
            "PPipeServerRestarts",
            restarting,
            "0m",
            "warning",
            "{{ $labels.pod }} keeps being restarted.",
        ),
        _alert(
            "PPipeGpuMemoryFull",
            f"{used} / {total} > 0.95",
            "10m",
            "warning",
            "GPU {{ $labels.gpu_uuid }} of {{ $labels.pod }} has less than 5 % of its memory left.",
        ),
    ]


def _alert(name: str, expression: str, lasting: str, severity: str, summary: str) -> Plain:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
