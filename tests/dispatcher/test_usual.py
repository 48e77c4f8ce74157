"""What callers usually send, and who keeps to it in a flood."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from python_backend.dispatcher.frames.usual import (
    ACTIVE_SHARE,
    BUNCH_US,
    HOLD_US,
    MARGIN,
    MEMORY_US,
    MOST_CALLERS,
    SLICE_US,
    Usual,
)

S = 1_000_000


def steady(usual: Usual, caller: str, rps: float, start_us: int, seconds: float) -> int:
    """Frames of a calm time; when it ends."""
    for number in range(int(rps * seconds)):
        usual.came(caller, start_us + int(number * S / rps))
    return start_us + int(seconds * S)


def kept(usual: Usual, caller: str, rps: float, start_us: int, seconds: float) -> float:
    """Frames per second that a caller may send first while it is crowded, who sends so many."""
    times = [start_us + int(number * S / rps) for number in range(int(rps * seconds))]
    return sum(usual.keeps(caller, time_us) for time_us in times) / seconds


@given(st.floats(2, 500), st.floats(3, 90))
def test_who_came_before_a_flood_keeps_the_rate_that_he_had(rps: float, seconds: float) -> None:
    usual = Usual()
    now_us = steady(usual, "a", rps, 5 * S, seconds)
    usual.crowd(now_us)
    assert kept(usual, "a", rps, now_us, 10) >= 0.99 * int(rps * 10) / 10
    assert kept(usual, "flood", 1_000, now_us, 1) == 0


@given(st.floats(1, 200), st.integers(1, 20))
def test_who_sends_more_than_he_did_keeps_what_he_had_and_a_margin(rps: float, times: int) -> None:
    usual = Usual()
    now_us = steady(usual, "a", rps, 0, 30)
    usual.crowd(now_us)
    bunch = MARGIN * rps * BUNCH_US / S + 2
    assert kept(usual, "a", rps * 2 * times, now_us, 10) <= MARGIN * rps * 1.05 + bunch / 10


def test_the_first_frames_of_a_flood_are_not_its_custom() -> None:
    usual = Usual()
    now_us = steady(usual, "good", 100, 0, 2)
    for _ in range(50):
        usual.came("flood", now_us)
    usual.crowd(now_us + 1_000)
    assert not usual.keeps("flood", now_us + 2_000)
    assert usual.keeps("good", now_us + 2_000)


@given(st.integers(0, 2 * SLICE_US), st.integers(1, SLICE_US))
def test_a_flood_that_crowds_after_a_while_has_no_custom_of_it(begun_us: int, before_us: int) -> None:
    usual = Usual()
    now_us = steady(usual, "good", 100, 0, 3) + begun_us
    for at_us in range(now_us, now_us + before_us, 5_000):
        usual.came("flood", at_us)
    now_us += before_us
    usual.crowd(now_us)
    assert not usual.keeps("flood", now_us)
    assert usual.keeps("good", now_us)


def test_a_flood_with_pauses_does_not_become_custom_in_them() -> None:
    usual = Usual()
    now_us = steady(usual, "good", 100, 0, 2)
    for _ in range(50):
        usual.crowd(now_us)
        now_us += HOLD_US + 10_000
        assert not usual.is_crowded(now_us)
        for number in range(20):
            usual.came("flood", now_us + 1_000 * number)
        now_us += 30_000
    usual.crowd(now_us)
    assert not usual.keeps("flood", now_us)
    assert kept(usual, "good", 100, now_us, 10) > 99, "however long it lasted"


def test_who_sends_in_bunches_keeps_them() -> None:
    usual = Usual()
    for second in range(20):
        for _ in range(12):
            usual.came("cameras", second * S)
    usual.crowd(20 * S)
    for second in range(20, 25):
        first = sum(usual.keeps("cameras", second * S) for _ in range(12))
        assert first >= 6, "12 at once: the others of a bunch come as anybody's do"


@given(st.floats(20, 500), st.integers(2, 20), st.floats(0.5, 2.8), st.integers(3, 12))
def test_pauses_of_up_to_three_quarters_of_the_time_do_not_count(
    rps: float, seconds: int, pause: float, jobs: int
) -> None:
    usual = Usual()
    now_us = 5 * S
    for _ in range(jobs):
        now_us = steady(usual, "a", rps, now_us, seconds)
        for number in range(int(pause * seconds * 4)):  # others send meanwhile
            usual.came("b", now_us + number * S // 4)
        now_us += round(pause * seconds * S)
    now_us = steady(usual, "a", rps, now_us, seconds)
    usual.crowd(now_us)
    assert kept(usual, "a", rps, now_us, 10) >= 0.99 * int(rps * 10) / 10


@given(st.integers(2, 40), st.integers(4, 8))
def test_callers_who_took_turns_have_no_custom_of_all_that_was_served_each(callers: int, rounds: int) -> None:
    """Four times what was served, and a third more, for pauses after a caller's last turn do not count."""
    usual = Usual()
    now_us = 0
    for _ in range(rounds):
        for number in range(callers):
            now_us = steady(usual, f"flood {number}", 100, now_us, 1)
    usual.came("flood 0", now_us + SLICE_US)
    usual.crowd(now_us + 2 * SLICE_US)
    now_us += 2 * SLICE_US
    all_rps = sum(kept(usual, f"flood {number}", 200, now_us, 20) for number in range(callers))
    bunch = MARGIN * 100 * BUNCH_US / S + 1
    assert all_rps <= 100 * MARGIN * 4 / 3 / ACTIVE_SHARE + callers * bunch / 20


def test_silence_counts() -> None:
    usual = Usual()
    steady(usual, "a", 100, 0, 2)
    for second in range(2, 302):
        usual.came("b", second * S)
    usual.came("a", 303 * S)
    usual.came("b", 304 * S)
    usual.came("b", 305 * S)
    usual.crowd(305 * S)
    assert kept(usual, "a", 100, 305 * S, 10) < 5


def test_a_caller_is_remembered_in_a_quiet_time_without_frames() -> None:
    usual = Usual()
    now_us = steady(usual, "a", 100, 0, 20) + MEMORY_US
    usual.crowd(now_us)
    assert usual.keeps("a", now_us)


def test_no_more_callers_are_remembered_than_there_is_room_for() -> None:
    usual = Usual()
    for number in range(MOST_CALLERS + 10):
        usual.came(str(number), number)
    usual.came("last", 2 * SLICE_US)
    usual.came("last", 4 * SLICE_US)
    usual.came("last", 6 * SLICE_US)
    usual.crowd(7 * SLICE_US)
    assert [usual.keeps(str(number), 7 * SLICE_US) for number in (0, 10, 11, MOST_CALLERS)] == [
        False, False, True, True,
    ]  # fmt: skip
