"""What `ppipe demo --heal` makes of its two runs, and which server it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.helpers.heal.fleet import HealFleet, make_fleet
from ppipe.bench.outcome import Fate, FrameResult
from ppipe.heal_demo import WITH, WITHOUT, HealResult, HealRun, LostServer, NothingToHeal, worst_loss
from ppipe.heal_picture import draw_heal, series
from ppipe.operate.replan import Truth, factor, tables_of, what_is_left

SLO_US = 100_000


def frames(bad_from_s: float, bad_to_s: float) -> list[FrameResult]:
    """Ten of each model in each of 8 s; those of 'faces' that are due between are dropped."""
    return [
        FrameResult(
            model=model,
            frame=0,
            due_us=number * 100_000,
            sent_us=number * 100_000,
            ended_us=number * 100_000 + SLO_US // 2,
            fate=Fate.DROPPED if model == "faces" and bad_from_s <= number / 10 < bad_to_s else Fate.ANSWERED,
        )
        for number in range(80)
        for model in ("cars", "faces")
    ]


@pytest.fixture
def result() -> HealResult:
    return HealResult(
        loss=LostServer("fast-1", 0.0, 0.5),
        rates_rps={"cars": 10.0, "faces": 10.0},
        seconds=8.0,
        slo_us={"cars": SLO_US, "faces": SLO_US},
        runs=(
            HealRun(WITHOUT, frames(3.0, 8.0), lost_s=3.0),
            HealRun(WITH, frames(3.0, 5.0), 3.0, served_s=5.0, said=((4.6, "to roll out: lost: fast-1"),)),
        ),
    )


def test_what_came_of_both_runs_is_summed_up(result: HealResult) -> None:
    assert result.summary() == {
        "server": "fast-1",
        "requests": 320,
        "unanswered": 0,
        "offered_rps": 20.0,
        "before_loss": 1.0,
        "after_loss_without": 0.5,
        "after_loss": 0.8,
        "new_plan_s": 2.0,
        "after_new_plan": 1.0,
    }
    lines = result.lines()
    assert lines[0] == "fast-1 was killed for good after 3 s of 8, under 20 frames/s"
    assert "  5.0 s  the new plan serves, 2.0 s after the loss" in lines
    assert lines[-2:] == [
        "without operate: 100% in time before the loss, 50% after it",
        "with operate: 100% in time before the loss, 80% after it",
    ]


def test_the_picture_shows_each_second(result: HealResult, tmp_path: Path) -> None:
    starts_s, rows = series(result, result.runs[1])
    assert starts_s == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert rows["cars"] == [10.0] * 8
    assert rows["faces"] == [10.0] * 3 + [0.0] * 2 + [10.0] * 3
    draw_heal(result, tmp_path / "heal.png", "a fleet")
    assert (tmp_path / "heal.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> HealFleet:
    return make_fleet(tmp_path_factory.mktemp("fleet"), 30_000)


def test_the_server_is_taken_that_another_plan_makes_up_for_best(fleet: HealFleet) -> None:
    loss = worst_loss(fleet.plan, fleet.problem)
    rates = {model.model: model.throughput_rps for model in fleet.plan.models}
    truth = Truth(out=frozenset({loss.server}), rates_rps=rates)
    left = factor(tables_of(what_is_left(fleet.plan, fleet.problem, truth), fleet.problem), rates)
    assert loss.left == pytest.approx(min(1.0, left))
    assert loss.planned > loss.left


def test_where_no_plan_does_better_that_is_said(fleet: HealFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ppipe.heal_demo._loss_of", lambda server, plan, problem: LostServer(server, 0.5, 0.5)
    )
    with pytest.raises(NothingToHeal, match="the plan that is served does as well as any other"):
        worst_loss(fleet.plan, fleet.problem)
