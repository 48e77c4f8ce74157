"""What dispatchers and cascades of a deployment have done between two looks at their pages of metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from planner.addresses import authority
from planner.cascades.served import CascadeEntry
from planner.manifest import DeploymentManifest, ModelEntry

TIMEOUT_S = 1.0
DISPATCHER_COUNTER, CASCADE_COUNTER = "ppipe_decisions_total", "ppipe_cascade_frames_total"
"""Which have become less where a process has begun anew."""
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Look:
    """One page, read at `at_s` (monotonic): values by series name and labels."""

    at_s: float
    series: Mapping[str, tuple[tuple[Labels, float], ...]]

    def total(self, name: str, **labels: str) -> float:
        """Sum over all label sets that have these labels."""
        return sum(value for found, value in self.series.get(name, ()) if labels.items() <= found.items())

    def values(self, name: str, label: str) -> dict[str, float]:
        """By the value of one label."""
        found: dict[str, float] = {}
        for labels, value in self.series.get(name, ()):
            if label in labels:
                found[labels[label]] = found.get(labels[label], 0.0) + value
        return found


@dataclass(frozen=True)
class ModelRow:
    """A model now. Rates are per second; latencies shares of the SLO, None without answers."""

    model: str
    arrived_rps: float
    in_time_rps: float
    late_rps: float
    dropped_rps: Mapping[str, float]
    queue: int
    in_flight: int
    mean_batch: float | None
    median_slo: float | None
    p99_slo: float | None
    queue_slo: float | None
    stage_slo: Mapping[str, float]
    decision_us: float | None
    compiled: bool
    """Whether the dispatcher runs compiled code."""


@dataclass(frozen=True)
class CascadeRow:
    """A cascade now, in its own frames. ended_rps: by how they ended. missing_rps: by member, frames of it
    that were not made or not answered. mean_slo: of complete frames' latencies, as a share of the SLO.
    """

    cascade: str
    arrived_rps: float
    ended_rps: Mapping[str, float]
    missing_rps: Mapping[str, float]
    open_frames: int
    mean_slo: float | None


@dataclass(frozen=True)
class WorkerRow:
    """A worker now. `utilisation`: busy share of the time."""

    model: str
    worker: str
    up: bool
    utilisation: float
    batches_rps: float


def read(manifest: DeploymentManifest, entry: ModelEntry) -> Look:
    """The page of one model's dispatcher. Raises OSError."""
    return _read(manifest.metrics_url(entry))


def read_cascade(manifest: DeploymentManifest, cascade: CascadeEntry) -> Look:
    """The page of a cascade. Raises OSError."""
    return _read(f"http://{authority(manifest.entry.host, cascade.metrics_port)}/metrics")


def _read(url: str) -> Look:
    """Without urllib's handlers and proxies: who watches a fleet reads pages again and again.
    Raises OSError.
    """
    where = urlsplit(url)
    assert where.hostname is not None
    connection = HTTPConnection(where.hostname, where.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        try:
            connection.request("GET", where.path)
            answer = connection.getresponse()
            text = answer.read().decode()
        except HTTPException as error:
            raise OSError(f"{url}: {error!r}") from error
    if answer.status != 200:
        raise OSError(f"{url}: {answer.status} {answer.reason}")
    return parse(text, time.monotonic())


def read_all(manifest: DeploymentManifest, entry: ModelEntry) -> dict[str, Look]:
    """The pages of a model's dispatchers that show one, by entry; all are read at once. Raises OSError
    where none does.
    """
    return _read_each(manifest, lambda seen: read(seen, seen.model(entry.model)))


def read_cascades(manifest: DeploymentManifest, cascade: CascadeEntry) -> dict[str, Look]:
    """The same of a cascade."""
    return _read_each(manifest, lambda seen: read_cascade(seen, seen.cascade(cascade.name)))


def _read_each(
    manifest: DeploymentManifest, read_from: Callable[[DeploymentManifest], Look]
) -> dict[str, Look]:
    def page(name: str) -> Look | OSError:
        try:
            return read_from(manifest.seen_from(name))
        except OSError as error:
            return error

    found: dict[str, Look] = {}
    fault = OSError()
    names = [server.name for server in manifest.entries]
    for name, look in zip(names, _each_at_once(page, names), strict=True):
        if isinstance(look, Look):
            found[name] = look
        else:
            fault = look
    if not found:
        raise fault
    return found


def _each_at_once(page: Callable[[str], Look | OSError], names: Sequence[str]) -> list[Look | OSError]:
    """One alone needs no further thread."""
    if len(names) == 1:
        return [page(names[0])]
    with ThreadPoolExecutor(len(names)) as crew:
        return list(crew.map(page, names))


def together(
    before: Mapping[str, Look], after: Mapping[str, Look], counter: str = DISPATCHER_COUNTER
) -> tuple[Look, Look]:
    """Two looks at all entries as if there were one dispatcher, or cascade: of the entries that both have.
    One that was restarted in between began at 0, as `counter` shows.
    """
    both = [entry for entry in after if entry in before]
    pairs = [_Change(before[entry], after[entry], counter) for entry in both]
    return _summed([pair.before for pair in pairs]), _summed([pair.after for pair in pairs])


def _summed(looks: Sequence[Look]) -> Look:
    """Values stand side by side: whoever reads them adds them up."""
    series: dict[str, list[tuple[Labels, float]]] = {}
    for look in looks:
        for name, values in look.series.items():
            series.setdefault(name, []).extend(values)
    at_s = sum(look.at_s for look in looks) / len(looks) if looks else 0.0
    return Look(at_s=at_s, series={name: tuple(values) for name, values in series.items()})


def frames(looks: Mapping[str, Look]) -> float:
    """Frames that clients have sent to any entry: one that was passed on has come twice."""
    return sum(
        look.total("ppipe_frames_total") - look.total("ppipe_passed_here_total") for look in looks.values()
    )


def parse(text: str, at_s: float) -> Look:
    """A page as text. Of a page that is read again and again only the values are new: what stands before them
    is taken apart once. Raises ValueError.
    """
    series: dict[str, list[tuple[Labels, float]]] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        labels_end = line.rfind("}") + 1
        key, value = line[:labels_end], line[labels_end:]
        if not key:
            key, value = line.split(maxsplit=1)
        name, labels = _series(key)
        series.setdefault(name, []).append((labels, float(value.split(maxsplit=1)[0])))
    return Look(at_s=at_s, series={name: tuple(values) for name, values in series.items()})


_KNOWN_SERIES = 65_536


@lru_cache(maxsize=_KNOWN_SERIES)
def _series(key: str) -> tuple[str, Labels]:
    """Name and labels of what stands before a value. Raises ValueError."""
    (family,) = text_string_to_metric_families(f"{key} 0\n")
    (sample,) = family.samples
    return sample.name, sample.labels


def model_row(model: str, before: Look, after: Look) -> ModelRow:
    """What happened between two looks."""
    change = _Change(before, after)
    frames = sum(int(size) * count for size, count in change.by("ppipe_batches_total", "size").items())
    return ModelRow(
        model=model,
        arrived_rps=change.rate("ppipe_frames_total"),
        in_time_rps=change.rate("ppipe_in_time_total"),
        late_rps=change.rate("ppipe_late_total"),
        dropped_rps={
            reason: count / change.seconds
            for reason, count in change.by("ppipe_dropped_total", "reason").items()
            if count
        },
        queue=int(after.total("ppipe_queue_length")),
        in_flight=int(after.total("ppipe_in_flight")),
        mean_batch=change.quotient(frames, change.of("ppipe_batches_total")),
        median_slo=_quantile(change.by("ppipe_latency_slo_ratio_bucket", "le"), 0.5),
        p99_slo=_quantile(change.by("ppipe_latency_slo_ratio_bucket", "le"), 0.99),
        queue_slo=change.mean("ppipe_queue_slo_ratio"),
        stage_slo=_stages(change),
        decision_us=change.quotient(change.of("ppipe_decision_us_total"), change.of("ppipe_decisions_total")),
        compiled=after.total("ppipe_compiled") > 0,
    )


def cascade_row(cascade: CascadeEntry, before: Look, after: Look) -> CascadeRow:
    """What happened between two looks."""
    change = _Change(before, after, CASCADE_COUNTER)

    def rates(name: str, label: str) -> dict[str, float]:
        return {key: count / change.seconds for key, count in change.by(name, label).items() if count}

    ended = rates("ppipe_cascade_ended_total", "end")
    complete = ended.get("complete", 0.0) * change.seconds
    mean_us = change.quotient(change.of("ppipe_cascade_latency_us_total"), complete)
    return CascadeRow(
        cascade=cascade.name,
        arrived_rps=change.rate("ppipe_cascade_frames_total"),
        ended_rps=ended,
        missing_rps=rates("ppipe_cascade_missing_total", "model"),
        open_frames=int(after.total("ppipe_cascade_open_frames")),
        mean_slo=None if mean_us is None else mean_us / cascade.slo_us,
    )


def worker_rows(model: str, before: Look, after: Look) -> list[WorkerRow]:
    """Every worker of a model."""
    change = _Change(before, after)
    busy = change.by("ppipe_worker_busy_us_total", "worker")
    batches = change.by("ppipe_worker_batches_total", "worker")
    return [
        WorkerRow(
            model=model,
            worker=worker,
            up=up > 0,
            utilisation=min(1.0, busy.get(worker, 0.0) / 1e6 / change.seconds),
            batches_rps=batches.get(worker, 0.0) / change.seconds,
        )
        for worker, up in sorted(after.values("ppipe_worker_up", "worker").items())
    ]


class _Change:
    """Counters' increases between two looks; what was restarted in between began at 0, as `counter` shows."""

    def __init__(self, before: Look, after: Look, counter: str = DISPATCHER_COUNTER) -> None:
        restarted = after.total(counter) < before.total(counter)
        self.before = Look(before.at_s, {}) if restarted else before
        self.after = after
        self.seconds = max(1e-6, after.at_s - before.at_s)

    def of(self, name: str, **labels: str) -> float:
        return self.after.total(name, **labels) - self.before.total(name, **labels)

    def rate(self, name: str) -> float:
        return self.of(name) / self.seconds

    def by(self, name: str, label: str) -> dict[str, float]:
        before = self.before.values(name, label)
        return {key: value - before.get(key, 0.0) for key, value in self.after.values(name, label).items()}

    def mean(self, name: str, **labels: str) -> float | None:
        return self.quotient(self.of(f"{name}_sum", **labels), self.of(f"{name}_count", **labels))

    def places(self, name: str) -> list[tuple[str, str]]:
        found = {(labels["pipeline"], labels["stage"]) for labels, _ in self.after.series.get(name, ())}
        return sorted(found)

    @staticmethod
    def quotient(total: float, count: float) -> float | None:
        return total / count if count > 0 else None


def _stages(change: _Change) -> dict[str, float]:
    """Mean share of the SLO that a batch spent at each stage, by 'pipeline.stage'."""
    found = {}
    for pipeline, stage in change.places("ppipe_stage_slo_ratio_count"):
        mean = change.mean("ppipe_stage_slo_ratio", pipeline=pipeline, stage=stage)
        if mean is not None:
            found[f"{pipeline}.{stage}"] = mean
    return found


def _quantile(buckets: Mapping[str, float], quantile: float) -> float | None:
    """By linear interpolation within a bucket, as Prometheus does it; beyond the last one, that one's end."""
    ends = sorted((float(end), count) for end, count in buckets.items())
    if not ends or ends[-1][1] <= 0:
        return None
    wanted = quantile * ends[-1][1]
    low_end, low_count = 0.0, 0.0
    for end, count in ends:
        if count >= wanted:
            if end == float("inf"):
                return low_end
            return low_end + (end - low_end) * (wanted - low_count) / max(1e-9, count - low_count)
        low_end, low_count = end, count
    return low_end
