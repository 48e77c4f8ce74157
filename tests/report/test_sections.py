"""What a page says, without HTML: what is found, read, compared, and what bad input becomes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from planner import serial
from planner.cascades.data import CascadePart, PlannedCascade
from planner.shards import ModelShards, Shard
from planner.streams import StreamPolicy, StreamWeight
from ppipe.cli import run
from ppipe.report.compare import merge
from ppipe.report.content import Cell, Rect, Section, number, table, text
from ppipe.report.fleet_sections import cascades_section, entries_section
from ppipe.report.gantt import charts_of
from ppipe.report.materials import ReportError, gather
from ppipe.report.page import make_report, page_of
from ppipe.report.runs import parts_us, read_runs
from ppipe.report.stream_sections import MOST_ROWS, streams_section
from ppipe.rollout.history import History, HistoryEntry, ModelFigures
from tests.report.made import MODELS, PLAN, make_many, write


def sections(folder: Path) -> dict[str, Section]:
    return {section.kind: section for section in page_of(gather([folder])).subjects[0].sections}


def test_a_folder_gives_every_section(folder: Path) -> None:
    found = sections(folder)
    assert list(found) == ["plan", "served", "budget", "latency", "gantt", "profile", "repository"]
    assert [row[0].text for row in found["plan"].tables[0].rows] == MODELS
    prices = [line for line in found["plan"].words if line.startswith("One more GPU of ")]
    assert len(prices) == len(PLAN.gpu_price)


def test_an_event_log_counts_every_frame_once(folder: Path) -> None:
    for log in read_runs(folder / "load.jsonl"):
        ended = len(log.latencies_us) + sum(log.drops.values())
        assert ended == len(log.frames) > 10
        assert sum(log.drops.values()) > 0
        mean_us = sum(log.latencies_us) / len(log.latencies_us)
        assert sum(us for _, us in parts_us(log)) == pytest.approx(mean_us, rel=1e-9)
        assert all(us >= 0 for _, us in parts_us(log))


def test_planned_and_measured_stand_in_one_table(folder: Path) -> None:
    (served,) = sections(folder)["served"].tables
    ways = {(row[0].text, row[1].text) for row in served.rows}
    assert ways == {(name, "event log, adaptive") for name in MODELS} | {(MODELS[0], "measured, ppipe")}


def test_a_chart_holds_the_stretch_with_most_misses(folder: Path) -> None:
    log = read_runs(folder / "load.jsonl")[0]
    (whole,) = charts_of([log], "", 1)
    assert len(whole["batches"]) == len(log.batches)  # type: ignore[arg-type]
    (part,) = charts_of([log], "", 8_000 * 1_000)
    assert len(part["batches"]) <= 200  # type: ignore[arg-type]


def test_a_log_cut_anywhere_counts_up_to_there(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "load.jsonl").read_bytes()
    for end in (len(whole) // 3, len(whole) - 7):
        (tmp_path / "cut.jsonl").write_bytes(whole[:end])
        logs = read_runs(tmp_path / "cut.jsonl")
        assert logs[0].frames
        assert "cut off" in logs[-1].note
    damaged = whole[: len(whole) // 3] + b"]]]\n" + whole[-2000:]
    (tmp_path / "cut.jsonl").write_bytes(damaged)
    log = read_runs(tmp_path / "cut.jsonl")[-1]
    assert "line" in log.note


def test_two_plans_differ_where_they_differ() -> None:
    columns = ("model", "rate")
    first = table("t", columns, [[text("a"), number(10.0)], [text("b"), number(1.0)], [text("c"), number(3)]])
    second = table(
        "t", columns, [[text("a"), number(12.0)], [text("b"), number(1.0)], [text("d"), number(4)]]
    )
    merged = merge(first, second, ("one", "two"))
    assert merged is not None
    assert merged.columns == ("model", "rate: A", "rate: B")
    assert [[(cell.text, cell.mark) for cell in row] for row in merged.rows] == [
        [("a", ""), ("10.0", "changed"), ("12.0 (+20.0%)", "changed")],
        [("c", ""), ("3.0", "removed"), ("", "")],
        [("d", ""), ("", ""), ("4.0", "added")],
    ]
    assert merge(first, first, ("one", "two")) is None


def test_rows_of_equal_keys_are_told_apart() -> None:
    rows = [[Cell("same"), number(1.0)], [Cell("same"), number(2.0)]]
    one = table("t", ("model", "n"), rows)
    assert merge(one, one, ("a", "b")) is None


def test_two_files_of_a_kind_are_compared(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    less = replace(PLAN, models=(replace(PLAN.models[0], throughput_rps=1.0), *PLAN.models[1:]))
    write(other, serial.dumps(less))
    page = page_of(gather([folder / "plan.json", other]))
    assert len(page.subjects) == 2
    assert [found.title for found in page.differences] == ["Models"]
    assert page_of(gather([folder, folder])).differences == ()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (None, "", "nothing to report on"),
        ("plan.json", '{"planner": "ppipe", "objective": 1, "models": [], "era": 1}', "era: unknown field"),
        ("plan.json", '{"planner": "ppi', "not JSON"),
        ("x.jsonl", "", "no event log"),
        ("x.yaml", "cluster: [", "x.yaml"),
        ("x.txt", "hello", "nothing to report on"),
    ],
)
def test_bad_input_is_one_clear_message(
    name: str | None, content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name:
        write(tmp_path / name, content)
    for what in [tmp_path, *([tmp_path / name] if name else [])]:
        assert run(["report", str(what), "-o", str(tmp_path / "r.html")]) == 1
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said
    assert not (tmp_path / "r.html").exists()


def test_what_cannot_be_read_is_said_beside_what_can(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "fleet")
    write(tmp_path / "fleet" / "plan.json", '{"planner": "ppipe", "objective": 1, "models": [], "era": 1}')
    (subject,) = page_of(gather([tmp_path / "fleet"])).subjects
    assert "plan" not in [section.kind for section in subject.sections]
    assert any("another version of ppipe" in line for line in subject.missing)


def test_a_file_beside_a_folder_completes_it(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "load.jsonl", (folder / "load.jsonl").read_text(encoding="utf-8"))
    shutil.copytree(folder, tmp_path / "fleet")
    (tmp_path / "fleet" / "load.jsonl").unlink()
    for order in (["load.jsonl", "fleet"], ["fleet", "load.jsonl"]):
        (lot,) = gather([tmp_path / name for name in order])
        assert lot.runs
        assert lot.plan is not None


def rollout(at: str, outcome: str = "done") -> HistoryEntry:
    before = {"cars": ModelFigures(100.0, 90.0, 40.0)}
    after = {"cars": ModelFigures(80.0, 90.0, 79.5), "<b>": ModelFigures(5.0)}
    return HistoryEntry(
        at, "d", "lost-workers", "2 workers <i>lost</i>", 3, 4, outcome, 6.25, ("load: w",), before, after
    )


def test_a_history_of_rollouts_is_shown(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "fleet")
    entries = [rollout("2026-11-28T09:00:00"), rollout("2026-11-28T10:00:00", "w0 does not answer")]
    for entry in entries:
        History(tmp_path / "fleet").add(entry)
    section = sections(tmp_path / "fleet")["history"]
    rollouts, figures = section.tables
    (picture,) = section.pictures
    assert picture.words == "2 rollouts within 60.1 minutes"
    assert [row[4].text for row in rollouts.rows] == ["done", "w0 does not answer"]
    assert [[cell.value for cell in row[2:]] for row in figures.rows[:2]] == [
        [100.0, 40.0, 80.0, 79.5],
        [None, None, 5.0, None],
    ]
    make_report([tmp_path / "fleet"], tmp_path / "r.html")
    assert "<i>lost</i>" not in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_streams_are_shown_by_what_each_got(folder: Path) -> None:
    log = read_runs(folder / "load.jsonl")[0]
    assert streams_section([log]) is None, "no frame names one"
    policy = StreamPolicy(order="stream", share="weighted", weights=(StreamWeight("gate*", 2.0),))
    log.served = replace(log.served, streams=policy)
    for frame in log.frames.values():
        frame.stream = "gate <b>" if frame.request_id % 3 else "yard"
    section = streams_section([log])
    assert section is not None
    (got,) = section.tables
    by_name = {row[1].text: row for row in got.rows}
    assert {name: row[2].value for name, row in by_name.items()} == {"gate <b>": 2.0, "yard": 1.0}
    assert sum(row[3].value or 0 for row in got.rows) == len(log.frames)
    assert sum(row[4].value or 0 for row in got.rows) == log.in_time
    assert sum(row[8].value or 0 for row in got.rows) == sum(log.drops.values())
    shares = [(row[6].value or 0) for row in got.rows]
    jain = sum(shares) ** 2 / (len(shares) * sum(each**2 for each in shares))
    assert any(f"Jain's index of goodput over weight is {jain:.4f}" in line for line in section.words)


def test_of_very_many_streams_those_are_shown_that_got_least(folder: Path) -> None:
    log = read_runs(folder / "load.jsonl")[0]
    frame = next(iter(log.frames.values()))
    answered = replace(frame, arrived_us=0, ended_us=1, why="")
    log.frames = {
        number: replace(answered, request_id=number, stream=str(number), ended_us=None if number < 5 else 1)
        for number in range(2_000)
    }
    section = streams_section([log])
    assert section is not None
    (got,) = section.tables
    assert len(got.rows) == MOST_ROWS
    assert {row[1].text for row in got.rows} >= {"0", "1", "2", "3", "4"}
    assert f"{2_000 - MOST_ROWS} streams that got more" in got.note


def test_cascades_and_entries_of_a_plan_are_shown() -> None:
    parts = (
        CascadePart("find", "", 60_000, 1.0, 1.0),
        CascadePart("read", "find", 30_000, 4.0, 6.5),
        CascadePart("sort", "find", 20_000, 2.0, 2.0),
    )
    shards = tuple(Shard((home, other), rate, (((0, 1), (2,)),)) for home, other, rate in MADE_SHARDS)
    plan = replace(
        PLAN,
        cascades=(PlannedCascade("gate", 100_000, 12.5, parts),),
        shards=(ModelShards(MODELS[0], shards, 3, 20.0, 100.0, 90.0, assumed=True),),
    )
    assert cascades_section(PLAN) is None
    assert entries_section(PLAN) is None
    cascades, entries = cascades_section(plan), entries_section(plan)
    assert cascades is not None
    assert entries is not None
    hints = [shape.hint for shape in cascades.pictures[0].shapes if isinstance(shape, Rect) and shape.hint]
    assert "gate to read: find 60.00 ms, 60% of the SLO" in hints
    assert "gate to sort: SLO 100 ms" in hints
    assert [row[2].text for row in cascades.tables[0].rows] == ["clients", "find", "find"]
    assert [(row[2].text, row[3].text, row[5].value) for row in entries.tables[0].rows] == [
        ("north", "south", 3.0),
        ("south", "north", 3.0),
    ]
    assert any("carry 40 frames/s; the planned rate takes 3 shards" in line for line in entries.words)
    assert any("costs at most 10.0%" in line for line in entries.words)


MADE_SHARDS = (("north", "south", 30.0), ("south", "north", 20.0))


def test_a_history_that_is_cut_off_counts_up_to_there(folder: Path, tmp_path: Path) -> None:
    history = History(tmp_path)
    for at in ("1", "2"):
        history.add(rollout(at))
    history.path.write_bytes(history.path.read_bytes()[:-40])
    (lot,) = gather([history.path])
    assert [entry.at for entry in lot.history] == ["1"]
    assert "cut off" in lot.faults[0]
    write(history.path, '{"at": "1", "sense": 0}\n')
    with pytest.raises(ReportError, match=r"history\.jsonl:1"):
        gather([history.path])


def test_three_things_are_too_many(folder: Path) -> None:
    with pytest.raises(ReportError, match="at most 2"):
        gather([folder, folder, folder])
    with pytest.raises(ReportError, match="no such file"):
        gather([folder / "gone"])


def test_two_hundred_models_fit(tmp_path: Path) -> None:
    page = make_report([make_many(tmp_path / "many", 200)], tmp_path / "r.html")
    assert len(page.subjects[0].sections[0].tables[0].rows) == 200
    assert (tmp_path / "r.html").stat().st_size < 3e6
