"""How strikes are scored, on frames made up: one every 10 ms, SLO 0.1 s, struck at 2 s, back at 3 s."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.helpers.faults.score import Strike, summary, totals
from benchmarks.helpers.loads.tagged import TaggedFrame

SLO_S = 0.1
STRUCK_S, BACK_S, END_S = 2.0, 3.0, 8.0
DROPPED = "UNAVAILABLE: net: the frame cannot meet its deadline, which is in 3.2 ms: reason=overload"


def frame(sent_s: float, error: str = "", took_s: float = 0.05) -> TaggedFrame:
    return TaggedFrame(due_s=sent_s, sent_s=sent_s, ended_s=sent_s + took_s, answers=1, error=error)


def struck(fate: Callable[[int, float], TaggedFrame], lost_share: float = 0.5, load: float = 0.7) -> Strike:
    """`fate`: from number and time of sending to the frame."""
    frames = [fate(number, number / 100) for number in range(round(100 * END_S))]
    return Strike("fault", lost_share, load, SLO_S, STRUCK_S, BACK_S, frames)


def lost_between(from_s: float, to_s: float) -> Callable[[int, float], TaggedFrame]:
    return lambda _, at_s: frame(at_s, DROPPED if from_s <= at_s < to_s else "")


def test_what_was_on_the_failed_component_or_waited_for_it_is_not_counted() -> None:
    score = struck(lost_between(STRUCK_S - SLO_S, STRUCK_S + SLO_S), lost_share=0.25).score(7)
    assert (score.attainment_others, score.lost, score.seed) == (1.0, [], 7)
    assert (score.frames, score.in_time) == (800, 780)


def test_what_the_remaining_capacity_cannot_serve_is_not_asked_for() -> None:
    """Half of the workers at 70 % of capacity: 2 of 7 frames of the outage may be lost, and no more."""

    def fate(number: int, at_s: float) -> TaggedFrame:
        return frame(at_s, DROPPED if number % 7 < 2 and STRUCK_S < at_s < BACK_S else "")

    assert struck(fate).attainment_of_others() == pytest.approx(1.0, abs=0.005)
    assert struck(fate, lost_share=0.25).attainment_of_others() < 0.97
    assert struck(fate, load=0.25).attainment_of_others() < 0.97, "a light load leaves capacity enough"


def test_without_a_dispatcher_only_frames_after_its_return_count() -> None:
    outage = struck(lost_between(STRUCK_S, BACK_S + SLO_S), lost_share=1.0)
    assert outage.attainment_of_others() == 1.0
    assert struck(lost_between(STRUCK_S, BACK_S + 0.5), lost_share=1.0).attainment_of_others() < 0.95


def test_recovery_runs_from_the_return_to_the_first_whole_second_that_is_well() -> None:
    assert struck(lost_between(STRUCK_S, BACK_S)).recovery_s() == 0.0
    assert struck(lost_between(STRUCK_S, BACK_S + 2)).recovery_s() == pytest.approx(2.0, abs=0.06)
    assert struck(lost_between(STRUCK_S, END_S)).recovery_s() is None
    assert struck(lost_between(BACK_S + 4, BACK_S + 4.5)).attainment_after() == pytest.approx(0.75, abs=0.01)


def test_losses_say_what_frames_were_told_and_when() -> None:
    def fate(number: int, at_s: float) -> TaggedFrame:
        if 4.0 <= at_s < 4.105:
            return frame(at_s, DROPPED)
        return frame(at_s, took_s=0.2) if at_s == 5.0 else frame(at_s)

    assert struck(fate).losses() == [
        "11 reason=overload: 2.00 to 2.10 s, median 2.05",
        "1 answered late: 3.00 to 3.00 s, median 3.00",
    ]


def test_broken_promises_are_counted() -> None:
    def fate(number: int, at_s: float) -> TaggedFrame:
        made = frame(at_s)
        if number == 10:
            made.ended_s, made.answers = None, 0
        made.answers += number == 20
        made.wrong = number == 30
        if number == 40:
            made.ended_s = at_s + SLO_S + 1.1
        return made

    scores = [struck(fate).score(0), struck(lost_between(9, 9)).score(1)]
    found = totals(scores)
    assert [found[name] for name in ("unanswered", "duplicate", "wrong", "answered_late")] == [1, 1, 1, 1]
    assert summary(scores)["attainment_others_worst"] == sorted(each.attainment_others for each in scores)


def test_a_strike_on_a_starved_host_is_told_apart_and_counts_all_the_same() -> None:
    def starved(number: int, at_s: float) -> TaggedFrame:
        made = frame(at_s, DROPPED if at_s > 7.0 else "")
        made.due_s -= 0.006 * (number % 8 == 0)
        return made

    calm, bad = struck(lost_between(9, 9)).score(0), struck(starved).score(1)
    assert (calm.starved, bad.starved) == (False, True)
    found = totals([calm, bad])
    assert found["starved"] == 1
    assert found["attainment_others_min"] == bad.attainment_others < 1.0
    assert found["attainment_others_min_not_starved"] == calm.attainment_others
