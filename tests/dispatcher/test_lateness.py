"""What is kept free before deadlines: how much, and for how long after something was late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from python_backend.dispatcher.lateness import MEMORY_US, Lateness

SLO_US = 400_000
SPARE_US, FIRST_US, LARGEST_US = 4_000, 5_000, 100_000
S = 1_000_000


def saw(lateness: Lateness, late_us: int, answers: int, from_us: int, every_us: int) -> int:
    """So many answers, all as late; returns when the next one would come."""
    for number in range(answers):
        lateness.saw(late_us, from_us + number * every_us)
    return from_us + answers * every_us


def test_a_few_answers_say_nothing_yet() -> None:
    lateness = Lateness(SLO_US)
    assert lateness.allowance_us(0) == FIRST_US
    saw(lateness, 20_000, 31, 0, 1_000)
    assert lateness.allowance_us(31_000) == FIRST_US
    lateness.saw(20_000, 31_000)
    assert lateness.allowance_us(31_000) == 20_000 + SPARE_US
    assert Lateness(20_000).allowance_us(0) == 1_000


def test_it_is_never_more_than_a_quarter_of_the_slo_nor_less_than_nothing() -> None:
    late, early = Lateness(SLO_US), Lateness(SLO_US)
    saw(late, 10 * SLO_US, 100, 0, 1_000)
    saw(early, -SLO_US, 100, 0, 1_000)
    assert (late.allowance_us(S), early.allowance_us(S)) == (LARGEST_US, 0)


def test_one_stall_does_not_rule_out_every_frame() -> None:
    lateness = Lateness(SLO_US)
    now_us = saw(lateness, 1_000, 150, 0, 10_000)
    lateness.saw(90_000, now_us)
    assert lateness.allowance_us(now_us) == 1_000 + SPARE_US


def test_a_bad_second_is_forgotten_in_seconds_at_20_answers_a_second_too() -> None:
    lateness = Lateness(SLO_US)
    now_us = saw(lateness, 1_000, 100, 0, 50_000)
    now_us = saw(lateness, 90_000, 20, now_us, 50_000)
    assert lateness.allowance_us(now_us) == 90_000 + SPARE_US
    now_us = saw(lateness, 1_000, int(MEMORY_US / 50_000) + 1, now_us, 50_000)
    assert lateness.allowance_us(now_us) == 1_000 + SPARE_US


def test_few_answers_a_second_are_remembered_for_longer() -> None:
    lateness = Lateness(SLO_US)
    now_us = saw(lateness, 30_000, 40, 0, S // 2)
    assert lateness.allowance_us(now_us) == 30_000 + SPARE_US, "32 answers took 16 s"


def test_where_no_answer_comes_any_more_it_ends_by_itself() -> None:
    lateness = Lateness(SLO_US)
    now_us = saw(lateness, 90_000, 200, 0, 10_000)
    assert lateness.allowance_us(now_us + 2 * MEMORY_US) == 90_000 + SPARE_US
    assert lateness.allowance_us(now_us + 4 * MEMORY_US) == FIRST_US


def test_another_table_begins_anew() -> None:
    lateness = Lateness(40 * SLO_US)
    now_us = saw(lateness, 9 * SLO_US, 100, 0, 1_000)
    assert lateness.allowance_us(now_us) > 9 * SLO_US
    lateness.begin(SLO_US)
    assert lateness.allowance_us(now_us) == FIRST_US
    saw(lateness, 10 * SLO_US, 100, now_us, 1_000)
    assert lateness.allowance_us(now_us) == LARGEST_US


@given(st.lists(st.tuples(st.integers(0, 2 * S), st.integers(-SLO_US, SLO_US)), max_size=120))
def test_it_is_the_quantile_of_what_it_should_remember(answers: list[tuple[int, int]]) -> None:
    lateness = Lateness(SLO_US)
    seen: list[tuple[int, int]] = []
    now_us = 0
    for gap_us, late_us in answers:
        now_us += gap_us
        lateness.saw(late_us, now_us)
        seen.append((now_us, late_us))
        while len(seen) > 32 and seen[0][0] + MEMORY_US <= now_us:
            seen.pop(0)
        while seen[0][0] + 20 * S <= now_us:
            seen.pop(0)
        if len(seen) >= 32:
            quantile_us = sorted(late for _, late in seen)[int(0.99 * (len(seen) - 1))]
            expected_us = max(0, min(quantile_us + SPARE_US, LARGEST_US))
            assert lateness.allowance_us(now_us) == expected_us
