"""Which workers are taken for dead, and when. SLO 400 ms, so the grace is 50 ms; batches take 20 ms."""

from __future__ import annotations

from collections.abc import Callable

from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
)
from planner.profile import TensorSpec
from python_backend.dispatcher.overdue import Overdue
from python_backend.scheduler.actions import Ticket, plain_ticket, tensor_hop
from python_backend.wire.clock import NEVER

MS = 1_000
GRACE_US = 50 * MS
BATCH_US = 20 * MS


def overdue(
    workers: int = 4, prepares: bool = False, moved_us: Callable[[int], int] = lambda batch: 0
) -> Overdue:
    spec = TensorSpec("x", "INT64", (1,))
    stage = EmulatedStage((BATCH_US,), tuple(f"server{index}" for index in range(workers)), (spec,))
    model = EmulatedModel("m", 400 * MS, 100.0, spec, (EmulatedPipeline(1, (stage, stage)),))
    return Overdue(build_manifest([model], 20_000, "d").models[0].served, prepares, moved_us)


def worker(stage: int, number: int) -> str:
    return f"m.p0.s{stage}.w{number}"


def ticket(batch: int, first: int, second: int, start_us: int = 0) -> Ticket:
    hops = (
        tensor_hop(worker(0, first), start_us, start_us, start_us, start_us + BATCH_US),
        tensor_hop(
            worker(1, second),
            start_us + BATCH_US,
            start_us + BATCH_US,
            start_us + BATCH_US,
            start_us + 2 * BATCH_US,
        ),
    )
    return plain_ticket(batch, 0, 0, 400 * MS, hops)


def look(watch: Overdue, until_us: int, allowance_us: int = 0) -> list[tuple[str, int]]:
    """Look as often as asked for; (worker, stage) of all found."""
    found = []
    while watch.look_us <= until_us:
        found += [(one.worker, one.stage) for one in watch.silent(watch.look_us, allowance_us)]
        if found:
            break
    return found


def test_nothing_under_way_is_never_looked_at() -> None:
    watch = overdue()
    assert watch.look_us == NEVER
    watch.sent(ticket(1, 0, 0), 0)
    assert watch.look_us < GRACE_US
    watch.over(1)
    assert watch.look_us == NEVER


def test_a_silent_worker_is_found_one_batch_and_a_grace_after_its_time() -> None:
    watch = overdue()
    watch.sent(ticket(1, 0, 0), 0)
    dead_us = BATCH_US + BATCH_US + GRACE_US
    assert look(watch, dead_us) == []
    assert look(watch, dead_us + GRACE_US) == [(worker(0, 0), 0)]


def test_a_first_stage_that_prepares_is_given_time_for_it_where_none_is_planned() -> None:
    dead_us = BATCH_US + BATCH_US + GRACE_US
    first, second = overdue(prepares=True), overdue(prepares=True)
    first.sent(ticket(1, 0, 0), 0)
    assert look(first, dead_us + GRACE_US) == []
    assert look(first, dead_us + 3 * GRACE_US) == [(worker(0, 0), 0)]
    second.sent(ticket(1, 0, 0), 0)
    second.heard(worker(0, 0), 1, 0, BATCH_US, BATCH_US)
    assert look(second, dead_us + BATCH_US + GRACE_US) == [(worker(1, 0), 1)], (
        "later ones have theirs planned"
    )


def test_what_answers_are_late_by_anyway_is_allowed() -> None:
    watch = overdue()
    watch.sent(ticket(1, 0, 0), 0)
    assert look(watch, 150 * MS, allowance_us=100 * MS) == []


def test_a_slow_worker_that_goes_on_ending_batches_is_not_dead() -> None:
    watch = overdue()
    watch.sent(ticket(1, 0, 0), 0)
    for time_us in range(40 * MS, 400 * MS, 60 * MS):
        assert look(watch, time_us) == []
        watch.heard(worker(0, 0), batch=99, stage=0, ended_us=time_us, now_us=time_us)


def test_a_late_first_stage_is_no_fault_of_the_second() -> None:
    watch = overdue()
    watch.sent(ticket(1, 0, 3), 0)
    late_us = BATCH_US + 60 * MS
    assert look(watch, late_us) == []
    watch.heard(worker(0, 0), batch=1, stage=0, ended_us=late_us, now_us=late_us)
    assert look(watch, 2 * BATCH_US + BATCH_US + GRACE_US + 10 * MS) == []
    assert look(watch, 300 * MS) == [(worker(1, 3), 1)]


def test_all_that_a_lost_worker_owes_is_told() -> None:
    watch = overdue()
    tickets = [ticket(1, 0, 0), ticket(2, 1, 0), ticket(3, 0, 1)]
    for each in tickets:
        watch.sent(each, 0)
    watch.heard(worker(0, 0), batch=1, stage=0, ended_us=BATCH_US, now_us=BATCH_US)
    assert watch.lost(worker(1, 0)) == tickets[:2]
    assert watch.lost(worker(0, 0)) == tickets[2:], "its part of batch 1 is done"


def test_no_more_than_half_of_a_pool_is_taken_for_dead() -> None:
    watch = overdue(workers=4)
    for number in range(3):
        watch.sent(ticket(number, number, 0), 0)
    assert look(watch, 400 * MS) == []
    watch.over(2)
    found = look(watch, 800 * MS)
    assert found == [(worker(0, 0), 0), (worker(0, 1), 0)]
    for name, _ in found:
        for late in watch.lost(name):
            watch.over(late.batch_id)
    watch.sent(ticket(7, 2, 0, start_us=800 * MS), 800 * MS)
    assert look(watch, 1_200 * MS) == [], "two of four are out already"
    watch.back(worker(0, 0), 1_200 * MS)
    assert look(watch, 1_600 * MS) == [(worker(0, 2), 0)]


def test_who_was_held_up_himself_starts_again() -> None:
    watch = overdue()
    watch.sent(ticket(1, 0, 0), 0)
    woke_us = 300 * MS
    assert watch.silent(woke_us, 0) == []
    assert look(watch, woke_us + BATCH_US + GRACE_US) == []
    assert look(watch, woke_us + 3 * GRACE_US) == [(worker(0, 0), 0)]


def test_a_worker_whose_batch_still_arrives_is_not_dead_and_one_that_gets_nothing_is() -> None:
    """Of two workers, on a crowded link: the batch of one moves until 300 ms, that of the other never."""
    asked: list[int] = []
    now_us = 0

    def moved_us(batch: int) -> int:
        asked.append(batch)
        return min(now_us, 300 * MS) if batch == 1 else 0

    watch = overdue(moved_us=moved_us)
    watch.sent(ticket(1, 0, 0), 0)
    watch.sent(ticket(2, 1, 0), 0)
    found: list[tuple[str, int]] = []
    while watch.look_us <= 500 * MS:
        now_us = watch.look_us
        for one in watch.silent(now_us, 0):
            found.append((one.worker, now_us))
            for late in watch.lost(one.worker):
                watch.over(late.batch_id)
        if now_us < 2 * BATCH_US + GRACE_US:
            assert not asked, "nothing is asked of what is not late"
    dead_us = 2 * BATCH_US + GRACE_US
    assert [name for name, _ in found] == [worker(0, 1), worker(0, 0)]
    assert dead_us <= found[0][1] <= dead_us + GRACE_US
    assert 300 * MS + dead_us <= found[1][1] <= 300 * MS + dead_us + GRACE_US, (
        "all of it has come: from then on the worker owes it"
    )


def test_a_later_stage_is_given_what_its_batches_lately_came_late_by() -> None:
    watch = overdue()
    for number in range(3):
        watch.sent(ticket(number, 0, number), 0)
        watch.heard(worker(0, 0), number, 0, BATCH_US, BATCH_US)
    watch.heard(worker(1, 0), 0, 1, 2 * BATCH_US + 60 * MS, 2 * BATCH_US + 60 * MS)
    watch.over(0)
    dead_us = 3 * BATCH_US + GRACE_US
    assert look(watch, dead_us + 50 * MS) == []
    assert {name for name, _ in look(watch, dead_us + 60 * MS + GRACE_US)} == {worker(1, 1), worker(1, 2)}
