"""A ticket is good once, and not for long; and what is remembered of tickets stays bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.wire.signing.keys import Stamp, TicketError
from python_backend.wire.signing.replays import UsedTickets

LIFETIME = 100
USES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(-2 * LIFETIME, 2 * LIFETIME)), max_size=80
)


@given(USES)
def test_no_ticket_is_used_twice_whenever_it_comes(uses: list[tuple[int, int, int]]) -> None:
    used = UsedTickets(0, LIFETIME)
    now_us, taken = 1_000, set()
    for passed_us, number, age_us in uses:
        now_us += passed_us
        stamp = Stamp("run", number, now_us - age_us)
        try:
            used.use(stamp, now_us, same_host=False)
        except TicketError:
            continue
        assert abs(age_us) <= LIFETIME
        assert stamp not in taken or number in {each.number for each in taken}
        assert stamp not in taken
        taken.add(stamp)


@given(st.integers(-LIFETIME, LIFETIME), st.lists(st.integers(0, 60), max_size=20))
def test_one_ticket_sent_again_and_again_is_refused_each_time(age_us: int, pauses: list[int]) -> None:
    used, now_us = UsedTickets(0, LIFETIME), 5_000
    stamp = Stamp("run", 7, now_us - age_us)
    used.use(stamp, now_us, same_host=False)
    for pause in pauses:
        now_us += pause
        for other in range(5):
            used.use(Stamp("other", now_us * 10 + other, now_us), now_us, same_host=False) if pause else None
        with pytest.raises(TicketError, match=r"used before|s ago"):
            used.use(stamp, now_us, same_host=False)


def test_what_is_remembered_is_bounded_in_time_and_number() -> None:
    used = UsedTickets(0, LIFETIME, most=1_000)
    for now_us in range(1_000, 5_000):
        used.use(Stamp("run", now_us, now_us), now_us, same_host=True)
        assert len(used) <= 4 * LIFETIME + 2
    flood = (Stamp("flood", number, 5_000) for number in range(2_000))
    with pytest.raises(TicketError, match="more than 1000 tickets"):
        all(used.use(stamp, 5_000, same_host=True) is None for stamp in flood)
    assert len(used) <= 1_000 + 4 * LIFETIME


@pytest.mark.parametrize(
    ("sent_us", "same_host", "said"),
    [(899, True, "before this worker"), (1_101, False, "clocks"), (899, False, "clocks"), (950, False, "")],
)
def test_tickets_of_other_times_are_refused(sent_us: int, same_host: bool, said: str) -> None:
    used = UsedTickets(990, LIFETIME)
    if not said:
        used.use(Stamp("run", 1, sent_us), 1_000, same_host)
        return
    with pytest.raises(TicketError, match=said):
        used.use(Stamp("run", 1, sent_us), 950 if same_host else 1_000, same_host)
