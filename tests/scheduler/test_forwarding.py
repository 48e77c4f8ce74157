"""Which frames go to another owner: those that it gets to clearly sooner, or that it alone can save."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.scheduler.forwarding import STALE_US, Forwarding


@pytest.fixture
def way() -> Forwarding:
    """To an owner of 1,000 frames/s who was heard of at time 0 with 5 ms of work."""
    made = Forwarding(hop_us=1_000, spare_us=3_000)
    made.add("b", rate_rps=1_000.0)
    made.told("b", backlog_us=5_000, now_us=0)
    return made


def test_a_frame_that_is_given_up_goes_where_it_is_in_time(way: Forwarding) -> None:
    # 5 ms of wait, 10 ms of work, 1 ms each way.
    assert way.rescuer(served_us=10_000, left_us=17_000, now_us=0) == ""
    assert way.rescuer(served_us=10_000, left_us=17_001, now_us=0) == "b"
    # The one that went there waits there too.
    assert way.rescuer(served_us=10_000, left_us=17_001, now_us=0) == ""
    assert way.rescuer(served_us=10_000, left_us=17_001, now_us=1_500) == "b"


def test_who_is_silent_gets_nothing_until_it_is_heard_again(way: Forwarding) -> None:
    way.silent("b")
    assert way.target(own_us=-1, now_us=1) == ""
    assert way.rescuer(served_us=0, left_us=1_000_000, now_us=1) == ""
    way.told("b", backlog_us=0, now_us=2)
    assert way.target(own_us=-1, now_us=3) == "b"
    assert way.target(own_us=-1, now_us=3 + STALE_US) == ""
    way.silent("nobody")


def test_each_owner_counts_with_its_own_hop(way: Forwarding) -> None:
    way.add("c", rate_rps=1_000.0)
    way.told("c", backlog_us=0, now_us=0)
    way.peers["c"].hop_us = 50_000
    # 5 ms of wait and 1 ms of hop there; c is free and far.
    assert way.target(own_us=9_001, now_us=0) == "b"
    assert way.rescuer(served_us=0, left_us=100_000, now_us=0) == "b"
    way.silent("b")
    assert way.target(own_us=53_000, now_us=0) == ""
    assert way.target(own_us=53_001, now_us=0) == "c"


OWNERS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.floats(1.0, 5_000.0), min_size=1, max_size=6
)
STREAMS = [f"camera {number}" for number in range(200)]


def homes(owners: dict[str, float], me: str, streams: list[str]) -> list[str]:
    """Of these streams, as the entry `me` sees it, an owner or not."""
    way = Forwarding(hop_us=1_000, spare_us=0)
    for name, rate in owners.items():
        if name != me:
            way.add(name, rate)
            way.told(name, 0, 0)
    return [way.home(stream, me, owners.get(me, 0.0), 0) for stream in streams]


@given(OWNERS)
def test_all_entries_agree_on_the_home_of_every_stream(owners: dict[str, float]) -> None:
    seen = [homes(owners, me, STREAMS[:40]) for me in (*owners, "of nothing")]
    assert all(each == seen[0] for each in seen)
    assert set(seen[0]) <= set(owners)


@given(OWNERS, st.data())
def test_only_the_streams_of_an_owner_that_goes_move(owners: dict[str, float], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(owners)))
    left = {name: rate for name, rate in owners.items() if name != gone}
    before, after = homes(owners, "me", STREAMS[:40]), homes(left, "me", STREAMS[:40])
    for was, now in zip(before, after, strict=True):
        assert now == was or was == gone
        assert now in left or not left


def test_owners_get_streams_by_their_rates() -> None:
    found = homes({"a": 3_000.0, "b": 1_000.0}, "a", [f"stream {number}" for number in range(4_000)])
    # The share of a is drawn from 4,000 throws with a chance of 3/4: three deviations are 82.
    assert abs(found.count("a") - 3_000) < 3 * 28


def test_streams_of_an_owner_that_is_silent_move_until_it_is_heard_again(way: Forwarding) -> None:
    mine = [stream for stream in STREAMS if way.home(stream, "a", 1_000.0, 1) == "b"]
    assert 0 < len(mine) < len(STREAMS)
    way.silent("b")
    assert {way.home(stream, "a", 1_000.0, 2) for stream in mine} == {"a"}
    assert way.home(mine[0], "a", 0.0, 2) == "", "nobody owns anything"
    way.told("b", 0, 3)
    assert {way.home(stream, "a", 1_000.0, 4) for stream in mine} == {"b"}
    assert {way.home(stream, "a", 1_000.0, 4 + STALE_US) for stream in mine} == {"a"}
