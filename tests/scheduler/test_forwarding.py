"""Which frames go to another owner: those that it gets to clearly sooner, or that it alone can save."""

from __future__ import annotations

import pytest

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
