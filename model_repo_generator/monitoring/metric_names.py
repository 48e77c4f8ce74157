"""Names of the metrics that alerts and dashboard read: the one table of them on this side.

The first part is what python_backend.dispatcher.metrics.prometheus exports, on a page of each dispatcher,
with the label `model`; the second part is Triton's; the last one is Kubernetes' (kube-state-metrics).
Selectors are made here, so that the text of a deployment stays inside its quotes.
"""

from __future__ import annotations

FRAMES = "ppipe_frames_total"
"""Frames that came in."""
IN_TIME = "ppipe_in_time_total"
"""Frames answered within their deadline."""
LATE = "ppipe_late_total"
"""Frames answered after it."""
SUPERSEDED = "ppipe_superseded_total"
"""Frames that a newer one of their stream made worthless: neither served nor missed."""
DROPPED = "ppipe_dropped_total"
"""Frames answered with an error; `reason` as in python_backend.scheduler.actions.DropReason."""
FAILED_ATTEMPTS = "ppipe_failed_attempts_total"
"""Attempts that failed; `kind` as in python_backend.wire.hop_failure.FailureKind."""
BATCHES = "ppipe_batches_total"
"""Batches sent; `size` in frames."""
DECISIONS = "ppipe_decisions_total"
"""Events that the scheduler core handled."""
DECISION_US = "ppipe_decision_us_total"
"""Time that took, microseconds."""
LATENCY_US = "ppipe_latency_us_total"
"""Sum of all answers' latencies, microseconds."""
LATENCY_BUCKET = "ppipe_latency_slo_ratio_bucket"
"""Histogram of the answers' latencies as a share of the SLO."""
QUEUE_RATIO_SUM, QUEUE_RATIO_COUNT = "ppipe_queue_slo_ratio_sum", "ppipe_queue_slo_ratio_count"
"""Time that frames waited for their batch, as a share of the SLO."""
STAGE_RATIO_SUM, STAGE_RATIO_COUNT = "ppipe_stage_slo_ratio_sum", "ppipe_stage_slo_ratio_count"
"""Per `pipeline` and `stage`: what of the SLO its batches use, the hop before included."""
ARENA = "ppipe_arena_bytes"
"""Per `sender` and `state` (free, taken, quarantined): bytes of shared memory that batches travel in."""
QUEUE_LENGTH = "ppipe_queue_length"
"""Frames that wait for a batch."""
OPEN_FRAMES = "ppipe_open_frames"
"""Frames without an answer, counted where they come in."""
IN_FLIGHT = "ppipe_in_flight"
"""Batches on their way."""
WORKER_UP = "ppipe_worker_up"
"""Per `worker`: 1 while it gets work, else 0."""
WORKER_BUSY_US = "ppipe_worker_busy_us_total"
"""Per `worker`: time that it was busy, microseconds."""
STAGE_DRIFT = "ppipe_stage_drift"
"""Per `pipeline` and `stage`: measured over profiled latency."""

TRITON_SUCCESS = "nv_inference_request_success"
TRITON_FAILURE = "nv_inference_request_failure"
TRITON_COMPUTE_US = "nv_inference_compute_infer_duration_us"
TRITON_GPU_UTILISATION = "nv_gpu_utilization"
TRITON_GPU_MEMORY_USED = "nv_gpu_memory_used_bytes"
TRITON_GPU_MEMORY_TOTAL = "nv_gpu_memory_total_bytes"

UP = "up"
RESTARTS = "kube_pod_container_status_restarts_total"

INSTANCE_LABEL = "app_kubernetes_io_instance"
GROUP_LABEL = "ppipe_group"
TARGET_LABELS = ("app.kubernetes.io/instance", "ppipe/group")
"""Labels of pods that Prometheus puts on all their metrics, under the two names above."""


def quoted(text: str) -> str:
    """`text` as a PromQL string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def select(metric: str, deployment: str, *matchers: str, **labels: str) -> str:
    """A selector of one deployment's `metric`; `matchers` are ready made, `labels` are compared for
    equality.
    """
    equal = [f"{name}={quoted(value)}" for name, value in {INSTANCE_LABEL: deployment, **labels}.items()]
    return f"{metric}{{{','.join([*equal, *matchers])}}}"
