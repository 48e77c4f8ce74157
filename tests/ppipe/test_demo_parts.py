"""What the demo reports, without running it; tests/live/test_demo_live.py runs it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from planner.plan import Plan
from ppipe.bench.outcome import Fate, FrameResult
from ppipe.bench.perf_analyzer import PerfReport
from ppipe.bench.run import Measured
from ppipe.bench.score import score
from ppipe.bench.view import score_table
from ppipe.console import status_table
from ppipe.demo import DemoResult
from ppipe.serving.supervisor import ServerState, ServerStatus
from ppipe.workspace import MissingResult, Workspace, save

SLO_US: Mapping[str, int] = {"m": 100_000}
GOOD = FrameResult(
    model="m", frame=0, due_us=0, sent_us=100, ended_us=50_000, fate=Fate.ANSWERED, abs_error=2e-6
)
DROPPED = replace(GOOD, fate=Fate.DROPPED, reason="overload", abs_error=0.0)
SILENT = replace(GOOD, fate=Fate.UNANSWERED, reason="no answer", abs_error=0.0)
WRONG = replace(GOOD, matched=False, abs_error=1.0)
ERROR = replace(GOOD, fate=Fate.FAILED, reason="INTERNAL: it broke", abs_error=0.0)


def measured(system: str, *outcomes: FrameResult, planned_rps: float | None = 5.0) -> Measured:
    total = score(outcomes, SLO_US, seconds=2.0)
    return Measured(
        system=system, seconds=2.0, slo_us=SLO_US, planned_rps=planned_rps, total=total,
        models={"m": total}, outcomes=outcomes,
    )  # fmt: skip


def result(*ppipe: FrameResult) -> DemoResult:
    return DemoResult(
        measured=(
            measured("PPipe", *ppipe),
            measured("NP", GOOD, DROPPED),
            measured("plain Triton", DROPPED, WRONG, planned_rps=None),
        ),
        perf=PerfReport(asked_rps=3.0, throughput_rps=2.98, p50_ms=40.0, p99_ms=50.0),
    )


def test_the_summary_is_of_ppipe_with_the_others_goodput() -> None:
    assert result(GOOD, GOOD, GOOD, DROPPED).summary() == {
        "requests": 4,
        "unanswered": 0,
        "mismatched": 0,
        "max_abs_error": 2e-6,
        "attainment": 0.75,
        "goodput_rps": 1.5,
        "planned_rps": 5.0,
        "np_goodput_rps": 0.5,
        "plain_triton_goodput_rps": 0.0,
        "perf_analyzer_rps": 2.98,
    }


def test_drops_are_no_fault_but_silence_wrong_answers_and_errors_are() -> None:
    assert result(GOOD, DROPPED).faults() == []
    faults = result(GOOD, SILENT, WRONG, WRONG, ERROR).faults()
    assert [fault.split()[0] for fault in faults] == ["1", "2", "1"]


def text_of(table: object) -> str:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_the_table_has_a_column_per_system_and_its_drops_by_reason() -> None:
    text = text_of(score_table(result(GOOD, DROPPED, DROPPED).measured))
    assert "plain Triton" in text
    assert "2 overload" in text
    assert "50.00%" in text


def test_the_board_shows_each_server_with_its_note_as_it_is() -> None:
    status = ServerStatus(
        name="slow-0", models=4, state=ServerState.WAITING, answering=0, restarts=2, detail="see [log]\nmore"
    )
    text = text_of(status_table([status]))
    for part in ("slow-0", "waiting to restart", "0 of 4", "2", "see [log]"):
        assert part in text
    assert "more" not in text


def test_a_result_that_is_not_there_names_its_maker(tmp_path: Path) -> None:
    workspace = Workspace.of("demo", tmp_path)
    with pytest.raises(MissingResult, match=r"plan.json is not there yet; make it with ppipe plan"):
        workspace.load_plan()
    plan = Plan(planner="ppipe", objective=1.0, upper_bound=1.0, gap=0.0, solver="", models=())
    save(plan, workspace.plan)
    assert workspace.load_plan() == plan
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"], "no half-written file is left"
    assert Workspace.of("demo", None).root == Path(".ppipe/demo")
