"""A dispatcher's counters as a Prometheus page of its own: http://<entry host>:<feedback port>/metrics,
over TCP.

Not through Triton's custom metrics: in 2.51 they crash the stub. It frees the message of such a call while
the server may still be waking up in it, and on a busy host that corrupted the shared memory of an entry
server within seconds (a general protection fault in rbtree_best_fit::priv_deallocate; a lock around all
calls of ours did not help). The hot path only counts in memory; the page is made when somebody asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from python_backend.runtime.driver import Driver
from python_backend.runtime.health import Health

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


class Source(Protocol):
    """What is exported: a dispatcher."""

    @property
    def driver(self) -> Driver:
        """The queue and its counters."""

    @property
    def health(self) -> Health:
        """Which workers are out."""


class MetricsPage:
    """Serves the page until closed."""

    def __init__(self, source: Source, model: str, address: tuple[str, int]) -> None:
        """Raises OSError when the port is taken."""
        self._server = ThreadingHTTPServer(address, _handler(lambda: page(source, model)))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, give up the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def page(source: Source, model: str) -> str:
    """Prometheus' text format, version 0.0.4."""
    lines: list[str] = []
    described: set[str] = set()
    for name, labels, value in sorted(samples(source), key=lambda sample: sample[0]):
        if name not in described:
            described.add(name)
            lines.append(f"# HELP ppipe_{name} {COUNTERS.get(name) or GAUGES[name]}")
            lines.append(f"# TYPE ppipe_{name} {'counter' if name in COUNTERS else 'gauge'}")
        texts = ",".join(f'{key}="{_escaped(text)}"' for key, text in {"model": model, **labels}.items())
        lines.append(
            f"ppipe_{name}{{{texts}}} {value:g}"
            if value != int(value)
            else f"ppipe_{name}{{{texts}}} {int(value)}"
        )
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _handler(make_page: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404, "there is /metrics")
                return
            body = make_page().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler


def samples(source: Source) -> Iterator[Sample]:
    """Everything that is exported, as it is now."""
    driver, counts = source.driver, source.driver.counts
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
    out = set(source.health.lost_workers())
    for worker in source.health.workers():
        yield "worker_up", {"worker": worker}, float(worker not in out)
    for (pipeline, stage), ratio in driver.drift.quantiles(0.5).items():
        yield "stage_drift", {"pipeline": str(pipeline), "stage": str(stage)}, round(ratio, 3)
    yield "queue_length", {}, driver.queue_length
    yield "in_flight", {}, driver.in_flight
    yield "allowance_us", {}, driver.allowance_us
