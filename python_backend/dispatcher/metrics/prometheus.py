"""A dispatcher's counters as a Prometheus page of its own: http://<entry host>:<feedback port>/metrics,
over TCP.

Not through Triton's custom metrics: in 2.51 they crash the stub. It frees the message of such a call while
the server may still be waking up in it, and on a busy host that corrupted the shared memory of an entry
server within seconds (a general protection fault in rbtree_best_fit::priv_deallocate; a lock around all
calls of ours did not help). The hot path only counts in memory; prometheus_client makes the page when
somebody asks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import Exemplar, Metric
from prometheus_client.exposition import choose_encoder

from python_backend.compiled import IS_COMPILED
from python_backend.dispatcher.driver import Driver
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.entries.shard_owner import ShardOwner
from python_backend.dispatcher.health import Health
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.wire.chain_transport import ChainTransport
from python_backend.wire.self_report import Reports, SelfReport, report_of

Sample = tuple[str, Mapping[str, str], float]
"""Name without prefix, labels, value."""

PREFIX = "ppipe_"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
COUNTERS = {
    "frames_total": "Frames that arrived.",
    "frame_bytes_total": "Bytes of those frames, as their clients sent them.",
    "in_time_total": "Frames answered within their deadline.",
    "late_total": "Frames answered after their deadline.",
    "unusable_total": "Frames that are no usable images, each answered with what is wrong with it.",
    "superseded_total": "Frames that a newer one of their stream made worthless before they were sent.",
    "dropped_total": "Frames answered with an error, by reason.",
    "crowding_frames_total": "Frames that went after others', for who had sent them: in a crowd, or nearly.",
    "passed_on_total": "Frames that were passed on to another entry, by entry.",
    "passed_back_total": "Of these, frames that came back because that entry did not answer.",
    "passed_here_total": "Frames that other entries passed on to this one.",
    "failed_attempts_total": "Attempts of batches that failed, by kind.",
    "batches_total": "Batches sent, by size.",
    "chained_batches_total": "Batches sent to a pipeline's ensemble within one server.",
    "latency_us_total": "Sum of the latencies of all answers.",
    "decisions_total": "Events that the scheduler core handled.",
    "decision_us_total": "Time that it took for them.",
    "worker_batches_total": "Batches that a worker ended.",
    "stage_refused_total": "Tickets that a worker refused: not genuine, used before, or for another place.",
    "worker_busy_us_total": "Time that a worker was busy; its rate is the worker's utilisation.",
}
GAUGES = {
    "compiled": "1 where the dispatcher runs compiled code, 0 where it runs as plain Python.",
    "queue_length": "Frames that wait for a batch.",
    "open_frames": "Frames without an answer: waiting or on their way.",
    "open_frames_limit": "The most that there may be; more are refused at once.",
    "open_frames_bytes": "Their bytes, as their clients sent them.",
    "open_frames_bytes_limit": "The most that there may be.",
    "in_flight": "Batches on their way.",
    "known_streams": "Streams that frames came of lately.",
    "held_answers": "Answers that wait for those to earlier frames of their streams.",
    "worker_up": "1 while the worker gets work, else 0.",
    "stage_drift": "Measured over profiled latency of a stage, median of its last batches.",
    "frame_drift": "Mean bytes and pixels of the last frames over those of the planned frame.",
    "allowance_us": "Time taken off deadlines for the way back.",
    "guard_us": "Time that predictions are taken to be wrong by.",
    "slo_us": "The model's SLO.",
    "shard_term": "The lease's term of each shard that this entry owns, where there are several entries.",
    "revision": "The revision of the plan that new frames are served by.",
    "older_in_flight": "Batches on their way that were sent by the revisions before it.",
    "arena_bytes": "Shared memory that a sender puts batches into, by state: free, taken, quarantined.",
    "threads": "Threads of the process of a dispatcher or worker.",
    "open_files": "File descriptors of the process of a dispatcher or worker.",
}
HISTOGRAMS = {
    "latency_slo_ratio": "Latency of answers as a share of the SLO.",
}
SUMMARIES = {
    "queue_slo_ratio": "Time that frames waited for their batch, as a share of the SLO.",
    "stage_slo_ratio": "Time of batches from the end of the stage before (or from being sent) to the end of "
    "this one, as a share of the SLO: what the stage uses of the budget.",
}
_PARTS = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}


def families() -> Iterator[tuple[str, str, str]]:
    """(name without prefix, type, description) of all that is exported."""
    tables = {"counter": COUNTERS, "gauge": GAUGES, "histogram": HISTOGRAMS, "summary": SUMMARIES}
    for kind, table in tables.items():
        for name, text in table.items():
            yield name, kind, text


def exported_names() -> frozenset[str]:
    """Full names of all series, as queries name them."""
    return frozenset(f"{PREFIX}{name}{part}" for name, kind, _ in families() for part in _PARTS[kind])


class MetricsSource(Protocol):
    """What is exported: a dispatcher."""

    @property
    def driver(self) -> Driver:
        """The queue and its counters."""

    @property
    def health(self) -> Health:
        """Which workers are out."""

    @property
    def reports(self) -> Reports:
        """What the workers say of themselves."""

    @property
    def shards(self) -> ShardOwner | None:
        """What is owned here, where there are several entries."""

    @property
    def passing(self) -> PassingOn | None:
        """What passes between them."""

    @property
    def name(self) -> str:
        """Triton's name of the dispatcher."""


class DispatcherCollector:
    """Prometheus' collector of one dispatcher: reads the counters when it is asked."""

    def __init__(self, source: MetricsSource, model: str) -> None:
        self._source = source
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """Everything that is exported, as it is now."""
        found: dict[str, list[Sample]] = {}
        for sample in samples(self._source):
            found.setdefault(sample[0], []).append(sample)
        exemplars = _exemplars(self._source.driver.counts)
        for name, kind, text in families():
            series = [sample for part in _PARTS[kind] for sample in found.get(name + part, ())]
            if not series:
                continue
            # A counter's family has the name without _total, which its samples have.
            metric = Metric(f"{PREFIX}{name.removesuffix('_total')}", text, kind)
            for full, labels, value in series:
                exemplar = exemplars.get(labels.get("le", ""))
                metric.add_sample(f"{PREFIX}{full}", {"model": self._model, **labels}, value, None, exemplar)
            yield metric


def page(source: MetricsSource, model: str, openmetrics: bool = False) -> tuple[bytes, str]:
    """The page and its content type: Prometheus' text format 0.0.4, or OpenMetrics with exemplars."""
    encode, content_type = choose_encoder(OPENMETRICS if openmetrics else "")
    return encode(DispatcherCollector(source, model)), content_type


def _exemplars(counts: Counts) -> dict[str, Exemplar]:
    """By the end of its bucket: the batch of the last frame there that was late."""
    ends = _bucket_ends(counts)
    return {
        ends[place]: Exemplar({"batch_id": str(late.batch_id)}, late.slos, late.at_s)
        for place, late in list(counts.late_batches.items())
    }


def samples(source: MetricsSource) -> Iterator[Sample]:
    """Everything that is exported, as it is now."""
    driver, counts = source.driver, source.driver.counts
    yield "frames_total", {}, counts.arrived
    yield "frame_bytes_total", {}, counts.frame_bytes
    yield "in_time_total", {}, counts.in_time
    yield "late_total", {}, counts.late
    yield "superseded_total", {}, counts.superseded
    yield "unusable_total", {}, counts.unusable
    yield "latency_us_total", {}, counts.latency_sum_us
    yield "decisions_total", {}, counts.decisions
    yield "decision_us_total", {}, counts.decision_us
    for reason, count in counts.drops.items():
        yield "dropped_total", {"reason": reason.value}, count
    for kind, count in counts.failures.items():
        yield "failed_attempts_total", {"kind": kind.value}, count
    yield "crowding_frames_total", {}, driver.room.crowding
    for size, count in sorted(counts.batch_sizes.items()):
        yield "batches_total", {"size": str(size)}, count
    yield from _latency_histogram(counts)
    for (part, labels), (slos, number) in driver.budget.totals():
        yield f"{part}_slo_ratio_sum", labels, slos
        yield f"{part}_slo_ratio_count", labels, number
    for worker, count in list(counts.worker_batches.items()):
        yield "worker_batches_total", {"worker": worker}, count
        yield "worker_busy_us_total", {"worker": worker}, counts.worker_busy_us[worker]
    out = set(source.health.lost_workers())
    for worker in source.health.workers():
        yield "worker_up", {"worker": worker}, float(worker not in out)
    for (pipeline, stage), ratio in driver.drift.quantiles(0.5).items():
        gpu = driver.drift.gpu(pipeline, stage)
        yield "stage_drift", {"pipeline": str(pipeline), "stage": str(stage), "gpu": gpu}, round(ratio, 3)
    for name, ratio in driver.frame_drift.ratios.items():
        yield "frame_drift", {"of": name}, round(ratio, 3)
    if isinstance(driver.transport, ChainTransport):
        yield "chained_batches_total", {}, driver.transport.batches
    yield "compiled", {}, float(IS_COMPILED)
    yield "queue_length", {}, driver.queue_length
    yield "open_frames", {}, driver.room.frames
    yield "open_frames_limit", {}, driver.room.bounds.frames
    yield "open_frames_bytes", {}, driver.room.bytes
    yield "open_frames_bytes_limit", {}, driver.room.bounds.bytes
    yield "in_flight", {}, driver.in_flight
    yield "known_streams", {}, driver.known_streams
    yield "held_answers", {}, driver.held_answers
    yield "allowance_us", {}, driver.allowance_us
    yield "guard_us", {}, driver.guard_us
    yield "slo_us", {}, counts.slo_us
    yield "revision", {}, driver.table.revision
    yield "older_in_flight", {}, sum(len(table.under_way) for table in driver.older_tables)
    yield from _of_entries(source)
    own = report_of(source.name, driver.transport)
    yield from _of_process(own)
    for report in source.reports.last().values():
        yield from _of_process(report)
        yield "stage_refused_total", {"worker": report.sender}, report.refused


def _of_entries(source: MetricsSource) -> Iterator[Sample]:
    if source.shards is None or source.passing is None:
        return
    for shard, term in source.shards.owned.items():
        yield "shard_term", {"shard": shard}, term
    counts = source.passing.counts
    for entry, count in list(counts.sent.items()):
        yield "passed_on_total", {"to": entry}, count
    yield "passed_back_total", {}, counts.came_back
    yield "passed_here_total", {}, counts.taken


def _of_process(report: SelfReport) -> Iterator[Sample]:
    sender = {"sender": report.sender}
    yield "arena_bytes", {**sender, "state": "free"}, report.arena_free
    yield "arena_bytes", {**sender, "state": "taken"}, report.arena_taken
    yield "arena_bytes", {**sender, "state": "quarantined"}, report.arena_quarantined
    yield "threads", sender, report.threads
    yield "open_files", sender, report.open_files


def _latency_histogram(counts: Counts) -> Iterator[Sample]:
    """Cumulative, as Prometheus has it: each bucket counts all answers up to its end."""
    sum_slos, each = counts.latency_sum_slos, list(counts.latency_counts)
    totals = list(itertools.accumulate(each))
    for end, total in zip(_bucket_ends(counts), totals, strict=True):
        yield "latency_slo_ratio_bucket", {"le": end}, total
    yield "latency_slo_ratio_sum", {}, sum_slos
    yield "latency_slo_ratio_count", {}, totals[-1]


def _bucket_ends(counts: Counts) -> tuple[str, ...]:
    return (*map(str, counts.latency_shares), "+Inf")
