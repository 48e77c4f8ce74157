"""The benchmark `wild`: what counts as right, as refused clearly, and as wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import wild
from benchmarks.helpers.wild.case import Answer, Expected, Figures, Verdict, WildCase, judge

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 3, in f\nValueError: no'


def case(expected: Expected, *names: str) -> WildCase:
    def never(_: Path) -> Answer:
        raise AssertionError

    return WildCase(id="a", kind="k", expected=expected, ask=never, names=names)


@pytest.mark.parametrize(
    ("expected", "answer", "verdict"),
    [
        (Expected.TAKEN, Answer(taken=True), Verdict.RIGHT),
        (Expected.TAKEN, Answer(taken=True, fault="another answer"), Verdict.WRONG),
        (Expected.TAKEN, Answer(taken=False, said="rate: must be above 0"), Verdict.WRONG),
        (Expected.REFUSED, Answer(taken=False, said="rate: must be above 0"), Verdict.REFUSED_CLEARLY),
        (Expected.REFUSED, Answer(taken=True), Verdict.WRONG),
        (Expected.REFUSED, Answer(taken=False), Verdict.WRONG),
        (Expected.REFUSED, Answer(taken=False, said=TRACEBACK), Verdict.WRONG),
        (Expected.REFUSED, Answer(taken=False, said="line\n" * 100), Verdict.WRONG),
    ],
)
def test_verdicts(expected: Expected, answer: Answer, verdict: Verdict) -> None:
    assert judge(case(expected), answer).verdict is verdict


def test_a_refusal_must_name_what_the_case_says() -> None:
    wanted = case(Expected.REFUSED, r"rate", r"line 3\b")
    assert judge(wanted, Answer(taken=False, said="line 3: rate is -1")).verdict is Verdict.REFUSED_CLEARLY
    judgement = judge(wanted, Answer(taken=False, said="line 30: rate is -1"))
    assert judgement.verdict is Verdict.WRONG
    assert r"line 3\\b" in judgement.why


def test_figures_count_each_case_once() -> None:
    figures = Figures()
    for expected, taken in ((Expected.TAKEN, True), (Expected.REFUSED, False), (Expected.TAKEN, False)):
        figures.add(case(expected), judge(case(expected), Answer(taken=taken, said="no")))
    assert (figures.cases, figures.right, figures.refused_clearly) == (3, 1, 1)
    assert figures.wrong == ["a: was refused: no"]


def test_ids_differ_and_nothing_of_lint_is_wrong() -> None:
    ids = [each.id for each in wild.cases_of("lint")]
    assert len(ids) == len(set(ids)) >= 70
    figures = wild.run(only="lint")
    assert figures["wrong"] == []
    assert figures["cases"] == figures["right"] + figures["refused_clearly"] == len(ids)


def test_a_crash_is_wrong(tmp_path: Path) -> None:
    def crashes(_: Path) -> Answer:
        raise KeyError("x")

    judgement = wild.ask(WildCase(id="a", kind="k", expected=Expected.REFUSED, ask=crashes), tmp_path)
    assert (judgement.verdict, judgement.why) == (Verdict.WRONG, "raised KeyError: 'x'")


def test_an_unknown_section_is_named() -> None:
    with pytest.raises(SystemExit, match="there is no section nothing; there are"):
        wild.run(only="nothing")


@pytest.mark.parametrize("name", ["batch-view-of-size", "eats-flat", "mixes-sums"])
def test_networks_of_each_kind_are_right(tmp_path: Path, name: str) -> None:
    case = next(each for each in wild.cases_of("batches") if each.id == f"batches-{name}")
    assert wild.ask(case, tmp_path).why == ""
