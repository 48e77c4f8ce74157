"""Links keep gaps: what is reserved for later leaves them to others until then."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from python_backend.scheduler.actions import Dispatch, Ticket
from python_backend.scheduler.batches import Reservation
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import RequestArrived
from python_backend.scheduler.links import RUN_AHEAD_US, Links


def pipeline(name: str, first_us: int) -> ServedPipeline:
    def stage(position: int, latency_us: int) -> ServedStage:
        worker = ServedWorker(
            name=f"{name}.s{position}", server="", uplink=f"up{position}", downlink=f"down{position}"
        )
        return ServedStage(gpu="G", slices_per_gpu=1, latency_us=(latency_us,), workers=(worker,))

    return ServedPipeline(batch_size=1, stages=(stage(0, first_us), stage(1, 10)), transfer_us=((20,),))


def test_a_transfer_reserved_for_later_leaves_the_link_to_a_shorter_stage() -> None:
    served = ServedModel(
        model="m", slo_us=2_000, planned_rps=1.0, pipelines=(pipeline("slow", 700), pipeline("fast", 300))
    )
    core = SchedulerCore(served)
    tickets: list[Ticket] = []
    for request_id in range(2):
        actions = core.handle(RequestArrived(request_id, 2_000), 0)
        tickets += [action.ticket for action in actions if isinstance(action, Dispatch)]
        core.check_invariants()
    assert [ticket.hops[1].transfer_start_us for ticket in tickets] == [700, 300]
    assert [ticket.hops[1].end_us for ticket in tickets] == [730, 330]


@given(
    looks=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 60), st.integers(1, 12)), max_size=20
    )
)
def test_the_earliest_moment_at_which_both_links_are_free(looks: list[tuple[int, int, int, int]]) -> None:
    links = Links()
    for index in range(3):
        assert (links.uplink(f"u{index}"), links.downlink(f"d{index}")) == (index, index)
    taken_up: list[set[int]] = [set(), set(), set()]
    taken_down: list[set[int]] = [set(), set(), set()]
    for uplink, downlink, from_us, length_us in looks:
        held_up_us, held_down_us = length_us, 2 * length_us
        expected_us = from_us
        while taken_up[uplink] & set(range(expected_us, expected_us + held_up_us)) or taken_down[
            downlink
        ] & set(range(expected_us, expected_us + held_down_us)):
            expected_us += 1
        assert links.fit_us(uplink, downlink, from_us, length_us, 2 * length_us) == expected_us
        hop = Reservation(1, 0, 0)
        hop.uplink, hop.downlink = uplink, downlink
        hop.transfer_start_us, hop.up_wire_us, hop.down_wire_us = expected_us, length_us, 2 * length_us
        links.add(hop)
        taken_up[uplink].update(range(expected_us, expected_us + held_up_us))
        taken_down[downlink].update(range(expected_us, expected_us + held_down_us))


def test_what_is_removed_is_free_again() -> None:
    links = Links()
    links.uplink("u"), links.downlink("d")
    hop = Reservation(1, 0, 0)
    hop.uplink, hop.downlink, hop.transfer_start_us = 0, 0, 5
    hop.up_wire_us, hop.down_wire_us = 10, 10
    links.add(hop)
    assert links.fit_us(0, 0, 0, 6, 6) == 15
    assert links.fit_us(0, 0, 0, 5, 5) == 0
    links.remove(hop)
    assert links.fit_us(0, 0, 0, 6, 6) == 0


@pytest.mark.parametrize("told", [False, True])
def test_a_share_bounds_the_rate_and_stretches_no_transfer(told: bool) -> None:
    """A model that sends whenever it may: what it may run ahead by, then its share; each at full speed."""
    links = Links({"u": 0.25})
    links.uplink("u"), links.downlink("d")
    links.told[0] = told
    starts: list[int] = []
    for _ in range(600):
        links.now_us = starts[-1] if starts else 0
        hop = Reservation(1, 0, 0)
        hop.uplink, hop.downlink = 0, 0
        hop.transfer_start_us = links.fit_us(0, 0, links.now_us, 10_000, 10_000)
        hop.up_wire_us, hop.down_wire_us = 10_000, 10_000
        links.add(hop)
        assert hop.up_until_us - hop.transfer_start_us == 10_000
        starts.append(hop.transfer_start_us)
    ahead = RUN_AHEAD_US // 40_000 if told else 1
    assert starts[:ahead] == [10_000 * index for index in range(ahead)]
    assert [after - before for before, after in pairwise(starts[100:])] == [40_000] * 499


@pytest.mark.parametrize("told", [False, True])
def test_what_is_reserved_for_later_keeps_nothing_waiting_that_is_sent_before_it(told: bool) -> None:
    """A server with first and later stages: tensors are to come in 50 ms, and a frame now."""
    links = Links({"u": 0.5, "d": 0.5})
    links.uplink("u"), links.downlink("d")
    links.told[0] = told
    hop = Reservation(1, 0, 0)
    hop.uplink, hop.downlink, hop.transfer_start_us = 0, 0, 50_000
    hop.up_wire_us = hop.down_wire_us = 1_000
    links.add(hop)
    assert 0 <= links.fit_us(0, 0, 0, 500, 500) <= 2_000, "once the first has had its share"


def test_what_other_models_send_is_kept_clear_of() -> None:
    links = Links()
    links.uplink("u"), links.downlink("d")
    links.taken("u", 5, 15)
    links.taken("elsewhere", 0, 99)
    assert links.fit_us(0, 0, 0, 6, 6) == 15
    assert links.fit_us(0, 0, 0, 5, 5) == 0


@pytest.mark.parametrize("is_down", [False, True])
def test_a_link_that_is_behind_is_held_until_what_is_late_has_crossed_it(is_down: bool) -> None:
    """It never rests: what is reserved from 20 to 30 goes on meanwhile."""
    links = Links()
    links.uplink("l"), links.downlink("l")
    links.now_us = 10
    hop = Reservation(1, 0, 0)
    hop.uplink, hop.downlink, hop.transfer_start_us = 0, 0, 20
    hop.up_wire_us, hop.down_wire_us = 10, 10
    links.add(hop)
    links.behind("l", is_down, 25, 1_500)
    assert links.fit_us(0, 0, 10, 5, 5) == 45
    assert links.pace(0, 0) == 1_500
    links.behind("l", is_down, 5, 1_200)
    assert links.fit_us(0, 0, 10, 5, 5) == 15, "what was told before counts no more"
    links.behind("l", is_down, 0, 1_000)
    assert links.fit_us(0, 0, 10, 5, 5) == 10
    assert links.pace(0, 0) == 1_000
    links.behind("elsewhere", is_down, 50, 2_000)
    assert links.fit_us(0, 0, 10, 5, 5) == 10
