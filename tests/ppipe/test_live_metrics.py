"""What is read from two pages of metrics, and how it is shown."""

from __future__ import annotations

import dataclasses
import io
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from planner.cascades.served import CascadeEntry
from planner.manifest import DeploymentManifest, EntryPorts
from ppipe.commands import status
from ppipe.operate.looks import Watch
from ppipe.serving import live_metrics
from ppipe.serving.live_metrics import (
    CascadeRow,
    Look,
    ModelRow,
    WorkerRow,
    cascade_row,
    model_row,
    parse,
    together,
    worker_rows,
)
from ppipe.serving.load_tables import cascade_tables, fitting_tables, model_tables, worker_tables
from python_backend.cascade.counts import CascadeCounts, End
from python_backend.cascade.page import CascadePage
from tests.cascade.test_parent import CASCADE, MANIFEST

PAGE = """
ppipe_frames_total{{model="m"}} {frames}
ppipe_in_time_total{{model="m"}} {in_time}
ppipe_late_total{{model="m"}} 0
ppipe_dropped_total{{model="m",reason="overload"}} {dropped}
ppipe_dropped_total{{model="m",reason="failed"}} 3
ppipe_batches_total{{model="m",size="2"}} {batches}
ppipe_batches_total{{model="m",size="4"}} {batches}
ppipe_decisions_total{{model="m"}} {frames}
ppipe_decision_us_total{{model="m"}} {decision_us}
ppipe_queue_length{{model="m"}} 7
ppipe_in_flight{{model="m"}} 2
# TYPE ppipe_latency_slo_ratio histogram
ppipe_latency_slo_ratio_bucket{{model="m",le="0.5"}} {half}
ppipe_latency_slo_ratio_bucket{{model="m",le="1.0"}} {in_time}
ppipe_latency_slo_ratio_bucket{{model="m",le="+Inf"}} {in_time}
ppipe_latency_slo_ratio_sum{{model="m"}} 1
ppipe_latency_slo_ratio_count{{model="m"}} {in_time}
# TYPE ppipe_queue_slo_ratio summary
ppipe_queue_slo_ratio_sum{{model="m"}} {queue}
ppipe_queue_slo_ratio_count{{model="m"}} {frames}
# TYPE ppipe_stage_slo_ratio summary
ppipe_stage_slo_ratio_sum{{model="m",pipeline="0",stage="1"}} {stage}
ppipe_stage_slo_ratio_count{{model="m",pipeline="0",stage="1"}} {batches}
ppipe_worker_up{{model="m",worker="w0"}} 1
ppipe_worker_up{{model="m",worker="w1"}} 0
ppipe_worker_busy_us_total{{model="m",worker="w0"}} {busy}
ppipe_worker_batches_total{{model="m",worker="w0"}} {batches}
"""
EARLIER = {
    "frames": 100, "in_time": 50, "dropped": 0, "batches": 10, "decision_us": 1000, "half": 50, "queue": 5.0,
    "stage": 2.0, "busy": 1_000_000,
}  # fmt: skip
LATER = {
    "frames": 300, "in_time": 150, "dropped": 40, "batches": 20, "decision_us": 5000, "half": 100,
    "queue": 25.0, "stage": 4.0, "busy": 2_500_000,
}  # fmt: skip


def look(at_s: float, **values: float) -> Look:
    return parse(PAGE.format(**values), at_s)


def test_rates_and_shares_between_two_looks() -> None:
    row = model_row("m", look(10.0, **EARLIER), look(12.0, **LATER))
    assert (row.arrived_rps, row.in_time_rps, row.late_rps) == (100.0, 50.0, 0.0)
    assert row.dropped_rps == {"overload": 20.0}
    assert (row.queue, row.in_flight, row.mean_batch) == (7, 2, 3.0)
    assert row.median_slo == pytest.approx(0.5)
    assert row.p99_slo == pytest.approx(0.99)
    assert row.queue_slo == pytest.approx(0.1)
    assert row.stage_slo == {"0.1": pytest.approx(0.2)}
    assert row.decision_us == pytest.approx(20.0)


def test_workers_and_their_utilisation() -> None:
    busy, out = worker_rows("m", look(10.0, **EARLIER), look(12.0, **LATER))
    assert (busy.worker, busy.up, busy.utilisation, busy.batches_rps) == ("w0", True, 0.75, 5.0)
    assert (out.worker, out.up, out.utilisation, out.batches_rps) == ("w1", False, 0.0, 0.0)


def test_a_dispatcher_that_was_restarted_began_at_nothing() -> None:
    row = model_row("m", look(10.0, **LATER), look(12.0, **EARLIER))
    assert (row.arrived_rps, row.in_time_rps) == (50.0, 25.0)


def test_an_idle_model_has_no_latencies() -> None:
    row = model_row("m", look(10.0, **LATER), look(12.0, **LATER))
    assert (row.arrived_rps, row.median_slo, row.queue_slo, row.stage_slo) == (0.0, None, None, {})


def shown_at(width: int, models: list[ModelRow], workers: list[WorkerRow]) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(*model_tables(models, width), *worker_tables(workers, width))
    return console.export_text()


def test_tables_say_it_all() -> None:
    before, after = look(10.0, **EARLIER), look(12.0, **LATER)
    shown = shown_at(200, [model_row("m", before, after)], worker_rows("m", before, after))
    for text in ("overload", "50%", "99%", "10%", "0.1: 20%", "20 us", "75%  " + 15 * "\u2588", "out"):
        assert text in shown
    assert "plain Python" in shown


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 250])
def test_every_heading_and_number_can_be_read_at_any_width(width: int) -> None:
    before, after = look(10.0, **EARLIER), look(12.0, **LATER)
    row = model_row("m", before, after)
    stages = {f"{pipeline}.{stage}": 0.123 for pipeline in range(3) for stage in range(3)}
    names = ["efficientnet_b7", "m2"]
    models = [dataclasses.replace(row, model=name, arrived_rps=12_345.0, stage_slo=stages) for name in names]
    workers = [
        dataclasses.replace(worker, worker=f"{name}.p0.s1.w{index}", batches_rps=98_765.4)
        for name in names
        for index, worker in enumerate(worker_rows("m", before, after))
    ]
    shown = shown_at(width, models, workers)
    assert max(map(len, shown.splitlines())) <= width
    assert "\u2026" not in shown
    words = shown.split()
    for heading in (
        "arrive/s",
        "in",
        "time/s",
        "dropped/s",
        "under",
        "way",
        "stages/SLO",
        "decision",
        "batches/s",
    ):
        assert heading in words
    assert words.count("12345") == len(names)
    assert words.count("98765.4") == len(workers)
    for worker in workers:
        assert worker.worker in words
    assert shown.count("12%") == len(names) * len(stages)


@given(
    st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=9),
    st.integers(min_value=20, max_value=90),
)
def test_no_column_is_lost(headings: list[str], width: int) -> None:
    tables = fitting_tables(headings, [["x" * len(heading) for heading in headings]], width)
    found = [str(column.header) for table in tables for column in table.columns[1:]]
    assert found == headings[1:]
    assert all(str(table.columns[0].header) == headings[0] for table in tables)


def cascade_page(counts: CascadeCounts, at_s: float) -> Look:
    return parse(CascadePage(lambda: CASCADE, counts, lambda: 0).make()[0].decode(), at_s)


def test_a_cascade_between_two_looks_and_after_a_restart() -> None:
    counts = CascadeCounts()
    for _ in range(30):
        counts.arrived()
    before = cascade_page(counts, 10.0)
    for end, frames in ((End.COMPLETE, 8), (End.PARTIAL, 4), (End.SUPERSEDED, 2)):
        for _ in range(frames):
            counts.arrived()
            counts.ended(end, 150_000)
    counts.missed("plates", 6)
    row = cascade_row(CASCADE, before, cascade_page(counts, 12.0))
    assert row == CascadeRow(
        "street", 7.0, {"complete": 4.0, "partial": 2.0, "superseded": 1.0}, {"plates": 3.0}, 30, 0.5
    )
    again = cascade_row(CASCADE, before, cascade_page(CascadeCounts(), 12.0))
    assert (again.arrived_rps, again.mean_slo) == (0.0, None)
    console = Console(file=io.StringIO(), width=80)
    console.print(*cascade_tables([row, again], 80))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "superseded 1" in text
    assert "plates 3" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_cascade_at_two_entries_of_which_one_began_anew() -> None:
    first, second = CascadeCounts(), CascadeCounts()
    for counts, frames in ((first, 30), (second, 50)):
        for _ in range(frames):
            counts.arrived()
    before = {"a": cascade_page(first, 10.0), "b": cascade_page(second, 10.0)}
    anew = CascadeCounts()
    for counts, frames in ((first, 6), (anew, 4)):
        for _ in range(frames):
            counts.arrived()
            counts.ended(End.COMPLETE, 150_000)
    after = {"a": cascade_page(first, 12.0), "b": cascade_page(anew, 12.0), "c": cascade_page(anew, 12.0)}
    row = cascade_row(CASCADE, *together(before, after, live_metrics.CASCADE_COUNTER))
    assert (row.arrived_rps, row.ended_rps, row.open_frames) == (5.0, {"complete": 5.0}, 30)


def test_status_has_a_row_for_each_entry_s_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of each is read at its own port; one that shows none is named."""
    ports = {model.model: 30_001 + number for number, model in enumerate(MANIFEST.models)}
    other = EntryPorts(dataclasses.replace(MANIFEST.entry, name="b"), ports)
    two = dataclasses.replace(MANIFEST, cascades=(CASCADE,), more_entries=(other,))
    asked: list[tuple[str, int]] = []
    counts = CascadeCounts()
    for end in (End.COMPLETE, End.COMPLETE, End.PARTIAL, None):
        counts.arrived()
        if end is not None:
            counts.ended(end, 1)

    def read_cascade(manifest: DeploymentManifest, cascade: CascadeEntry) -> Look:
        asked.append((manifest.entry.name, cascade.metrics_port))
        if manifest.entry.name != "b":
            raise OSError
        return cascade_page(counts, 1.0)

    monkeypatch.setattr(status, "read_cascade", read_cascade)
    first = MANIFEST.entry.name
    assert list(status.cascade_entry_rows(two)) == [
        ("street", first, "does not answer", "", "", ""),
        ("street", "b", "4", "2", "1", "1"),
    ]
    assert asked == [(name, two.cascade_ports(name)["street"]) for name in (first, "b")]
    assert len({port for _, port in asked}) == 2


def test_a_page_is_read_as_prometheus_reads_it() -> None:
    """A label's value may hold what else separates; a time may follow the value."""
    text = (
        PAGE.format(**LATER)
        + """
# HELP ppipe_odd Text with } and " 7.
# TYPE ppipe_odd gauge
ppipe_odd{worker="a } b \\"c\\" #",gpu="x,y=z"} 1.5e+06
ppipe_odd{worker="",gpu=""} NaN
ppipe_alone 3 1700000000
ppipe_alone_end +Inf
"""
    )
    expected: dict[str, list[tuple[dict[str, str], str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            expected.setdefault(sample.name, []).append((sample.labels, repr(float(sample.value))))
    for _ in range(2):  # the second time by what is known
        found = parse(text, 1.0).series
        assert {
            name: [(labels, repr(value)) for labels, value in values] for name, values in found.items()
        } == expected


@pytest.mark.parametrize("line", ["ppipe_odd{worker", "ppipe_odd", 'ppipe_odd{a="b"} x'])
def test_a_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"not enough values|could not convert"):
        parse(line, 1.0)


def test_pages_of_all_entries_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    met = threading.Barrier(3)

    def read(manifest: SimpleNamespace, entry: str) -> Look:
        met.wait(timeout=30.0)  # broken unless all three are asked before one has answered
        if manifest.name == "b":
            raise OSError("hangs")
        return Look(1.0, {})

    def seen_from(name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, model=str)

    monkeypatch.setattr(live_metrics, "read", read)
    made = SimpleNamespace(entries=[SimpleNamespace(name=name) for name in "abc"], seen_from=seen_from)
    looks = live_metrics.read_all(cast(Any, made), cast(Any, SimpleNamespace(model="m")))
    assert list(looks) == ["a", "c"]


def test_a_missed_page_of_an_entry_takes_no_frames_from_the_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And all models' pages are read at once: a hung one keeps no other waiting."""
    seen = [{"a": look(1.0, **EARLIER), "b": look(1.0, **EARLIER)}, {"a": look(2.0, **LATER)}, {}]
    models = [SimpleNamespace(model=name) for name in ("m", "n")]
    both = threading.Barrier(len(models))

    def read_all(manifest: Any, entry: Any) -> dict[str, Look]:
        both.wait(timeout=60)
        return seen[turn]

    monkeypatch.setattr(live_metrics, "read_all", read_all)
    watch = Watch(cast(Any, SimpleNamespace(models=models, servers=())))
    for turn, counted in enumerate((200.0, 400.0)):
        watch.answering({}, 10.0 * turn)
        assert watch.pages.frames == {"m": counted, "n": counted}
    turn = 2
    watch.answering({}, 20.0)
    assert watch.pages.frames == {}
