"""Exports a dispatcher's counters through Triton's own metrics endpoint.

A call of the metrics API is a round trip to the server process, so the hot path only counts in memory and a
thread brings the differences over once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from python_backend.runtime.dispatcher_factory import Dispatcher

_PERIOD_S = 1.0
Sample = tuple[str, Mapping[str, str], float]
"""Name without prefix, labels, value."""

COUNTERS = {
    "frames_total": "Frames that arrived.",
    "in_time_total": "Frames answered within their deadline.",
    "late_total": "Frames answered after their deadline.",
    "dropped_total": "Frames answered with an error, by reason.",
    "failed_attempts_total": "Attempts of batches that failed, by kind.",
    "batches_total": "Batches sent, by size.",
    "latency_bucket_total": "Answers by latency; 'le' is the bucket's upper end as a share of the SLO.",
    "latency_us_total": "Sum of the latencies of all answers.",
    "decisions_total": "Events that the scheduler core handled.",
    "decision_us_total": "Time that it took for them.",
    "worker_batches_total": "Batches that a worker ended.",
    "worker_busy_us_total": "Time that a worker was busy.",
}
GAUGES = {
    "queue_length": "Frames that wait for a batch.",
    "in_flight": "Batches on their way.",
    "worker_up": "1 while the worker gets work, else 0.",
    "stage_drift": "Measured over profiled latency of a stage, median of its last batches.",
    "allowance_us": "Time taken off deadlines for the way back.",
}


class MetricsExporter:
    """See the module."""

    def __init__(self, dispatcher: Dispatcher, model: str, log: Callable[[str], None]) -> None:
        self._dispatcher = dispatcher
        self._model = model
        self._log = log
        self._families = {
            **{name: self._family(name, text, counter=True) for name, text in COUNTERS.items()},
            **{name: self._family(name, text, counter=False) for name, text in GAUGES.items()},
        }
        self._metrics: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
        self._shown: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _family(self, name: str, text: str, counter: bool) -> Any:
        kind = pb_utils.MetricFamily.COUNTER if counter else pb_utils.MetricFamily.GAUGE
        return pb_utils.MetricFamily(name=f"ppipe_{name}", description=text, kind=kind)

    def _run(self) -> None:
        while not self._closing.wait(_PERIOD_S):
            try:
                for sample in samples(self._dispatcher):
                    self._show(*sample)
            except Exception as error:
                self._log(f"exporting metrics failed: {error!r}")

    def _show(self, name: str, labels: Mapping[str, str], value: float) -> None:
        key = (name, tuple(labels.items()))
        if self._shown.get(key) == value:
            return
        if key not in self._metrics:
            self._metrics[key] = self._families[name].Metric(labels={"model": self._model, **labels})
        if name in COUNTERS:
            self._metrics[key].increment(value - self._shown.get(key, 0.0))
        else:
            self._metrics[key].set(value)
        self._shown[key] = value


def samples(dispatcher: Dispatcher) -> Iterator[Sample]:
    """Everything that is exported, as it is now."""
    driver, counts = dispatcher.driver, dispatcher.driver.counts
    yield "frames_total", {}, counts.arrived
    yield "in_time_total", {}, counts.in_time
    yield "late_total", {}, counts.late
    yield "latency_us_total", {}, counts.latency_sum_us
    yield "decisions_total", {}, counts.decisions
    yield "decision_us_total", {}, counts.decision_us
    for reason, count in counts.drops.items():
        yield "dropped_total", {"reason": reason.value}, count
    for kind, count in counts.failures.items():
        yield "failed_attempts_total", {"kind": kind.value}, count
    for size, count in sorted(counts.batch_sizes.items()):
        yield "batches_total", {"size": str(size)}, count
    for bound, count in zip((*counts.latency_shares, "+Inf"), counts.latency_counts, strict=True):
        yield "latency_bucket_total", {"le": str(bound)}, count
    for worker, count in list(counts.worker_batches.items()):
        yield "worker_batches_total", {"worker": worker}, count
        yield "worker_busy_us_total", {"worker": worker}, counts.worker_busy_us[worker]
    out = set(dispatcher.health.lost_workers())
    for worker in dispatcher.health.workers():
        yield "worker_up", {"worker": worker}, float(worker not in out)
    for (pipeline, stage), ratio in driver.drift.quantiles(0.5).items():
        yield "stage_drift", {"pipeline": str(pipeline), "stage": str(stage)}, round(ratio, 3)
    yield "queue_length", {}, driver.queue_length
    yield "in_flight", {}, driver.in_flight
    yield "allowance_us", {}, driver.allowance_us
