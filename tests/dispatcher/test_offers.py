"""How frames are offered: whose callers can wait come after those whose callers cannot."""

from __future__ import annotations

import pytest

from python_backend.dispatcher.frames.frame import LAST_RANK, Frame
from python_backend.dispatcher.frames.frame_state import FrameState
from python_backend.dispatcher.frames.room import Room, bounds_of
from python_backend.dispatcher.lateness import Lateness
from python_backend.dispatcher.offers import Offers
from python_backend.scheduler.actions import Dispatch
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import StageCompleted, TimerFired
from python_backend.wire.parameters.priority import priority_of
from tests.dispatcher.test_driver import SLO_US, manifest

NOW_US = 1_000_000


def offers(time_us: int = SLO_US) -> Offers:
    return Offers(manifest().models[0], time_us, Lateness(SLO_US))


def frame(number: int, timeout_us: int, priority: int = 1, time_us: int = SLO_US) -> Frame:
    """One that has come in, through a room of its own, where frames have time_us by plan."""
    made = Frame(
        request_id=number,
        data=memoryview(bytes(8)),
        arrived_us=NOW_US,
        deadline_us=NOW_US + timeout_us,
        send_outputs=lambda outputs: None,
        send_error=lambda code, text: None,
        priority=priority_of({"ppipe_priority": priority}),
    )
    entry = manifest().models[0]
    Room(bounds_of(entry.served, entry.longest_us, time_us, 1)).admit([made])
    return made


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((SLO_US, 1), (2 * SLO_US, 1)),
        ((SLO_US // 2, 1), (5 * SLO_US, 1)),
        ((5 * SLO_US, 1), (SLO_US, 2)),
        ((SLO_US, 8), (9 * SLO_US, 8)),
    ],
    ids=["the SLO before twice that", "less than the SLO", "priority before patience", "at any priority"],
)
def test_who_can_wait_comes_after_who_cannot(first: tuple[int, int], second: tuple[int, int]) -> None:
    made = offers()
    before, after = (made.offer(frame(0, *each), NOW_US).priority for each in (first, second))
    assert before > after


def test_frames_of_a_higher_rank_come_after_those_of_a_lower_one_within_their_priority() -> None:
    made, offered = offers(), list[int]()
    for priority, rank in ((2, 0), (2, 1), (2, LAST_RANK), (1, 0), (1, 1), (1, LAST_RANK)):
        each = frame(len(offered), SLO_US, priority=3 - priority)
        each.rank = rank
        offered.append(made.offer(each, NOW_US).priority)
    assert offered == sorted(set(offered), reverse=True)


def test_patient_frames_come_last_of_their_priority() -> None:
    made, last = offers(), frame(0, SLO_US)
    last.rank = LAST_RANK
    priorities = {made.offer(each, NOW_US).priority for each in (last, frame(1, 9 * SLO_US))}
    assert len(priorities) == 1


def test_a_little_more_than_the_slo_is_no_patience() -> None:
    made = offers()
    assert len({made.offer(frame(0, time_us), NOW_US).priority for time_us in (SLO_US, SLO_US + 5_000)}) == 1


@pytest.mark.parametrize("share", [0.2, 1.0, 1.4, 1.8])
def test_a_cascades_frames_are_offered_with_all_the_time_that_the_parts_before_left(share: float) -> None:
    """Else they were offered with the member's own part first, and went after all others, though simulations
    give them theirs."""
    by_plan_us = 2 * SLO_US
    left_us = round(share * SLO_US)
    made = offers(by_plan_us)
    urgent, crop = (made.offer(frame(0, time, time_us=by_plan_us), NOW_US) for time in (SLO_US, left_us))
    assert crop.deadline_us - urgent.deadline_us == left_us - SLO_US
    assert crop.priority == urgent.priority


def test_a_frame_is_served_before_all_that_were_there_and_can_wait() -> None:
    """Else who asks for an hour is served for an hour, before what came later."""
    entry = manifest().models[0]
    core, made = SchedulerCore(entry.served), offers()
    patient = [made.offer(frame(number, 3_600_000_000), NOW_US) for number in range(100)]
    sent = [each for each in core.handle_arrivals(patient, NOW_US) if isinstance(each, Dispatch)]
    urgent = made.offer(frame(100, SLO_US), NOW_US)
    later = core.handle(urgent, NOW_US + 1)
    assert [each for each in later if isinstance(each, Dispatch)] == [], "all workers are busy"
    core_time_us = min(dispatch.ticket.hops[0].end_us for dispatch in sent)
    ticket = sent[0].ticket
    actions = core.handle(StageCompleted(ticket.batch_id, ticket.attempt, 0, core_time_us), core_time_us)
    actions += core.handle(TimerFired(), core_time_us + 1)
    next_sent = [each for each in actions if isinstance(each, Dispatch)]
    assert next_sent[0].request_ids == (100,)


def test_a_frame_may_have_more_time_only_if_it_was_not_offered_with_all_of_it() -> None:
    made, urgent, patient = offers(), frame(0, SLO_US), frame(1, 3 * SLO_US)
    for each in (urgent, patient):
        made.offer(each, NOW_US)
    assert (made.has_more(urgent), made.has_more(patient)) == (False, True)
    patient.move(FrameState.PAUSED)
    made.offer(patient, NOW_US + SLO_US)
    assert not made.has_more(patient)
