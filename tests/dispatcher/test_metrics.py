"""The page of metrics, read as Prometheus reads it."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from model_repo_generator.emulated import build_manifest
from planner.addresses import authority
from ppipe.serving.ports import free_base
from python_backend.dispatcher.frames.room import Bounds, Room
from python_backend.dispatcher.metrics.budget import Budget
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.dispatcher.metrics.drift import Drift
from python_backend.dispatcher.metrics.frame_drift import FrameDrift
from python_backend.dispatcher.metrics.page import MetricsPage
from python_backend.dispatcher.metrics.prometheus import exported_names, page
from python_backend.wire.null_transport import NullTransport
from python_backend.wire.self_report import Reports, SelfReport, decode, encode
from python_backend.wire.signing.keys import Keys
from tests.live.data_plane_client import two_stage_model

SERVED = build_manifest([two_stage_model()], 20_000, "d").models[0].served
"""SLO 150 ms."""


@dataclass
class Driver:
    """What the page reads of one."""

    counts: Counts = field(default_factory=lambda: Counts(SERVED))
    budget: Budget = field(init=False)
    drift: Drift = field(default_factory=lambda: Drift(SERVED, print))
    frame_drift: FrameDrift = field(default_factory=lambda: FrameDrift("m", None, print))
    queue_length: int = 3
    in_flight: int = 2
    known_streams: int = 1
    held_answers: int = 0
    allowance_us: int = 5_000
    guard_us: int = 2_000
    room: Room = field(default_factory=lambda: Room(Bounds(frames=9, bytes=99)))
    table: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(revision=2))
    older_tables: tuple[()] = ()
    transport: NullTransport = field(default_factory=lambda: NullTransport(()))

    def __post_init__(self) -> None:
        self.budget = Budget(self.counts)


class Health:
    """Two workers, one of them out."""

    def workers(self) -> list[str]:
        return ["w0", "w1"]

    def lost_workers(self) -> list[str]:
        return ["w1"]


@dataclass
class Dispatcher:
    driver: Driver = field(default_factory=Driver)
    health: Health = field(default_factory=Health)
    reports: Reports = field(default_factory=lambda: Reports(Keys.none()))
    shards: None = None
    passing: None = None
    name: str = "a_dispatch"


def read(source: Dispatcher) -> dict[str, dict[str, float]]:
    """Values by series name and labels other than `model`."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(page(source, 'a "name"')[0].decode()):  # type: ignore[arg-type]
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("model") == 'a "name"'
            found.setdefault(sample.name, {})[",".join(labels.values())] = sample.value
    return found


def test_the_latency_histogram_is_cumulative_and_complete() -> None:
    source = Dispatcher()
    for latency_us in (15_000, 16_000, 140_000, 10_000_000):
        source.driver.counts.answered(latency_us, in_time=True)
    found = read(source)
    buckets = found["ppipe_latency_slo_ratio_bucket"]
    assert buckets["0.1"] == 1
    assert buckets["0.25"] == 2
    assert buckets["1.0"] == 3
    assert buckets["+Inf"] == found["ppipe_latency_slo_ratio_count"][""] == 4
    assert list(buckets.values()) == sorted(buckets.values())
    assert found["ppipe_latency_slo_ratio_sum"][""] == pytest.approx(10_171_000 / 150_000)


def test_openmetrics_names_the_batches_of_late_frames() -> None:
    source = Dispatcher()
    source.driver.counts.answered(15_000, in_time=True, batch_id=6)
    source.driver.counts.answered(200_000, in_time=False, batch_id=7)
    body, content_type = page(source, "m", openmetrics=True)  # type: ignore[arg-type]
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    found = {
        sample.labels["le"]: sample.exemplar
        for family in openmetrics_families(body.decode())
        for sample in family.samples
        if sample.name == "ppipe_latency_slo_ratio_bucket"
    }
    told = {end: exemplar for end, exemplar in found.items() if exemplar is not None}
    assert list(told) == ["1.5"]
    assert told["1.5"].labels == {"batch_id": "7"}
    assert told["1.5"].value == pytest.approx(200 / 150)


def test_the_formats_have_the_same_series() -> None:
    source = Dispatcher()
    names = [
        {
            sample.name
            for family in read_families(page(source, "m", openmetrics)[0].decode())  # type: ignore[arg-type]
            for sample in family.samples
        }
        for openmetrics, read_families in (
            (False, text_string_to_metric_families),
            (True, openmetrics_families),
        )
    ]
    assert names[0] == names[1] <= exported_names()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text"),
    ],
)
def test_the_format_is_negotiated(accept: str, content_type: str) -> None:
    port = free_base(28_500, 1)
    made = MetricsPage(lambda wanted: page(Dispatcher(), "m", wanted), ("127.0.0.1", port))  # type: ignore[arg-type]
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith(content_type)
    finally:
        made.close()


def test_the_budget_is_told_part_by_part() -> None:
    source = Dispatcher()
    budget = source.driver.budget
    budget.sent(7, 1, now_us=30_000, arrived_us=[0, 15_000])
    budget.ended(7, 1, (0, 0), ended_us=60_000, last=False)
    budget.ended(7, 1, (0, 1), ended_us=75_000, last=True)
    budget.ended(7, 1, (0, 1), ended_us=99_000, last=True)  # told twice
    budget.ended(8, 1, (0, 0), ended_us=99_000, last=False)  # never sent
    found = read(source)
    assert found["ppipe_queue_slo_ratio_sum"][""] == pytest.approx(0.3)
    assert found["ppipe_queue_slo_ratio_count"][""] == 2
    assert found["ppipe_stage_slo_ratio_sum"] == {"0,0": pytest.approx(0.2), "0,1": pytest.approx(0.1)}
    assert found["ppipe_stage_slo_ratio_count"] == {"0,0": 1, "0,1": 1}


def test_shares_of_the_slo_are_of_the_one_that_was_served_then() -> None:
    """A cascade's division may change from table to table: what was counted before keeps its share."""
    source = Dispatcher()
    counts, budget = source.driver.counts, source.driver.budget
    for slo_us in (150_000, 300_000):
        counts.serve_by(slo_us)
        counts.answered(180_000, in_time=False)
        budget.sent(7, 1, now_us=30_000, arrived_us=[0])
        budget.ended(7, 1, (0, 0), ended_us=60_000, last=True)
    found = read(source)
    assert found["ppipe_slo_us"][""] == 300_000
    assert found["ppipe_latency_slo_ratio_sum"][""] == pytest.approx(1.2 + 0.6)
    buckets = found["ppipe_latency_slo_ratio_bucket"]
    assert (buckets["0.5"], buckets["0.75"], buckets["1.1"], buckets["1.25"]) == (0, 1, 1, 2)
    assert found["ppipe_queue_slo_ratio_sum"][""] == pytest.approx(0.2 + 0.1)
    assert found["ppipe_stage_slo_ratio_sum"]["0,0"] == pytest.approx(0.2 + 0.1)


def test_workers_queue_and_process_are_told() -> None:
    source = Dispatcher()
    source.driver.counts.stage_ended("w0", 1_250)
    report = SelfReport("w0", 4, arena_taken=2, arena_quarantined=1, threads=9, open_files=20, refused=3)
    source.reports.take(encode(report, Keys.none()))
    source.reports.take(b"PPR1 something else")
    found = read(source)
    assert found["ppipe_worker_up"] == {"w0": 1, "w1": 0}
    assert found["ppipe_worker_busy_us_total"] == {"w0": 1_250}
    assert found["ppipe_queue_length"][""] == 3
    assert found["ppipe_arena_bytes"] == {
        "a_dispatch,free": 0, "a_dispatch,taken": 0, "a_dispatch,quarantined": 0,
        "w0,free": 4, "w0,taken": 2, "w0,quarantined": 1,
    }  # fmt: skip
    assert found["ppipe_stage_refused_total"] == {"w0": 3}
    assert (found["ppipe_revision"][""], found["ppipe_older_in_flight"][""]) == (2, 0)
    assert found["ppipe_threads"]["a_dispatch"] >= 1
    assert found["ppipe_threads"]["w0"] == 9
    assert found["ppipe_open_files"]["a_dispatch"] > 2
    assert found.keys() <= exported_names()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_page_is_served_until_closed(host: str) -> None:
    port = free_base(28_400, 1)
    url = f"http://{authority(host, port)}/metrics"
    shown = MetricsPage(lambda _: page(Dispatcher(), "m"), (host, port))  # type: ignore[arg-type]
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert b"ppipe_frames_total" in answer.read()
        with pytest.raises(OSError, match="in use"):
            MetricsPage(lambda _: page(Dispatcher(), "m"), (host, port))  # type: ignore[arg-type]
    finally:
        shown.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)


def test_a_report_of_another_key_is_no_report(tmp_path: Path) -> None:
    keys = []
    for name in ("ours", "theirs"):
        (tmp_path / name).write_text(f"key of {name} with enough text\n")
        keys.append(Keys(tmp_path / name))
    report = SelfReport("w0", 1, 1, 1, 1, 1, 1)
    assert decode(encode(report, keys[0]), keys[0]) == report
    assert decode(encode(report, keys[1]), keys[0]) is None
    assert decode(encode(report, Keys.none()), keys[0]) is None
