"""What the core decides in situations small enough to know the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from python_backend.scheduler.actions import Dispatch, Drop, DropReason, WakeAt, plain_ticket, tensor_hop
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import (
    BatchFailed,
    RequestArrived,
    RequestCancelled,
    StageCompleted,
    TimerFired,
    WorkerBack,
    WorkerLost,
    WorkerTaken,
    Yielded,
)


def stage(name: str, latency_us: tuple[int, ...], workers: int) -> ServedStage:
    """A pool whose workers each have links of their own."""
    return ServedStage(
        gpu="G",
        slices_per_gpu=1,
        latency_us=latency_us,
        workers=tuple(
            ServedWorker(
                name=f"{name}.w{i}", server=f"{name}{i}", uplink=f"{name}.up{i}", downlink=f"{name}.down{i}"
            )
            for i in range(workers)
        ),
    )


def two_stages(slo_us: int = 1_000, workers: int = 1, batch_size: int = 1) -> ServedModel:
    """100 us, a hop of 10 us, 200 us (batch 2: 150, 20, 300)."""
    pipeline = ServedPipeline(
        batch_size=batch_size,
        stages=(stage("a", (100, 150), workers), stage("b", (200, 300), workers)),
        transfer_us=((10, 20),),
    )
    return ServedModel(model="m", slo_us=slo_us, planned_rps=5_000.0, pipelines=(pipeline,))


def one_stage(latency_us: tuple[int, ...] = (100,), workers: int = 1, batch_size: int = 1) -> ServedModel:
    pipeline = ServedPipeline(
        batch_size=batch_size, stages=(stage("a", latency_us, workers),), transfer_us=()
    )
    return ServedModel(model="m", slo_us=1_000, planned_rps=5_000.0, pipelines=(pipeline,))


def test_an_idle_pipeline_takes_a_frame_at_once() -> None:
    core = SchedulerCore(two_stages())
    hops = (tensor_hop("a.w0", 50, 50, 50, 150), tensor_hop("b.w0", 150, 160, 160, 360))
    ticket = plain_ticket(batch_id=0, attempt=0, pipeline=0, deadline_us=1_050, hops=hops)
    assert core.handle(RequestArrived(7, deadline_us=1_050), 50) == [Dispatch(ticket, (7,))]
    core.check_invariants()
    assert (core.queue_length, core.in_flight, core.unfinished) == (0, 1, 1)
    assert core.worker_busy_until_us() == {"a.w0": 150, "b.w0": 360}


def test_a_frame_waits_for_the_workers_and_hardly_longer() -> None:
    core = SchedulerCore(two_stages())
    core.handle(RequestArrived(1, deadline_us=1_000), 0)
    assert core.handle(RequestArrived(2, deadline_us=1_000), 0) == [WakeAt(100)]
    # Sent now it would queue for stage b, which is taken until 310; a 25th of its way, 12 us, is allowed.
    assert core.handle(TimerFired(), 100) == [WakeAt(188)]
    (dispatch,) = core.handle(TimerFired(), 188)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.request_ids == (2,)
    assert dispatch.ticket.hops == (
        tensor_hop("a.w0", 188, 188, 188, 288),
        tensor_hop("b.w0", 288, 298, 310, 510),
    )


def test_batches_fill_while_a_later_stage_is_the_bottleneck() -> None:
    """Idle workers in the first stage are no reason to send frames one by one to a busy second stage."""
    pipeline = ServedPipeline(
        batch_size=2, stages=(stage("a", (10, 20), 8), stage("b", (100, 150), 1)), transfer_us=((1, 2),)
    )
    core = SchedulerCore(ServedModel(model="m", slo_us=5_000, planned_rps=1.0, pipelines=(pipeline,)))
    core.handle(RequestArrived(0, deadline_us=5_000), 0)
    sizes = []
    for request_id in range(1, 5):
        for action in core.handle(
            RequestArrived(request_id, deadline_us=5_000 + request_id), 40 + request_id
        ):
            assert isinstance(action, WakeAt), "stage b is busy"
    for now_us in (100, 111, 240, 260, 261):
        sizes += [len(a.request_ids) for a in core.handle(TimerFired(), now_us) if isinstance(a, Dispatch)]
    assert sizes == [2, 2]


def test_a_frame_that_nothing_can_serve_is_dropped_at_once() -> None:
    core = SchedulerCore(two_stages())
    assert core.handle(RequestArrived(1, deadline_us=309), 0) == [Drop(1, DropReason.EXPIRED)]
    core.handle(RequestArrived(2, deadline_us=1_000), 0)
    # Behind frame 2 it could end at 510 at the earliest: stage b is taken until 310.
    assert core.handle(RequestArrived(3, deadline_us=509), 0) == [Drop(3, DropReason.OVERLOAD)]
    assert core.drops()[DropReason.OVERLOAD] == 1
    assert core.unfinished == 1


def test_the_urgent_frame_gets_the_fast_pipeline() -> None:
    slow = ServedPipeline(batch_size=1, stages=(stage("slow", (500,), 1),), transfer_us=())
    fast = ServedPipeline(batch_size=1, stages=(stage("fast", (100,), 1),), transfer_us=())
    core = SchedulerCore(ServedModel(model="m", slo_us=1_000, planned_rps=1.0, pipelines=(slow, fast)))
    (first,) = core.handle(RequestArrived(1, deadline_us=150), 0)
    assert isinstance(first, Dispatch)
    assert first.ticket.hops[0].worker == "fast.w0"


def test_an_early_end_frees_the_worker_early() -> None:
    core = SchedulerCore(one_stage())
    core.handle(RequestArrived(1, deadline_us=1_000), 0)
    core.handle(RequestArrived(2, deadline_us=1_000), 0)
    (dispatch,) = core.handle(StageCompleted(0, 0, 0, ended_us=60), 60)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.ticket.hops == (tensor_hop("a.w0", 60, 60, 60, 160),)
    assert core.served == 1


def test_a_late_end_moves_what_follows() -> None:
    core = SchedulerCore(two_stages())
    core.handle(RequestArrived(1, deadline_us=5_000), 0)
    core.handle(StageCompleted(0, 0, 0, ended_us=180), 180)
    core.check_invariants()
    assert core.worker_busy_until_us() == {"a.w0": 180, "b.w0": 390}


def test_unknown_and_old_attempts_are_ignored() -> None:
    core = SchedulerCore(two_stages(), batch_ids_from=40)
    (dispatch,) = core.handle(RequestArrived(1, deadline_us=5_000), 0)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.ticket.batch_id == 40
    (again,) = core.handle(BatchFailed(40, 0, 0), 20)
    assert isinstance(again, Dispatch)
    assert (again.ticket.batch_id, again.ticket.attempt, again.request_ids) == (41, 1, (1,))
    assert core.handle(StageCompleted(40, 0, 1, ended_us=30), 30) == []
    assert core.handle(StageCompleted(41, 0, 1, ended_us=30), 30) == []
    assert core.served == 0
    core.handle(StageCompleted(41, 1, 1, ended_us=400), 400)
    assert core.served == 1


def test_the_answer_counts_although_notices_were_lost() -> None:
    core = SchedulerCore(two_stages())
    core.handle(RequestArrived(1, deadline_us=5_000), 0)
    core.handle(StageCompleted(0, 0, 1, ended_us=310), 310)
    core.check_invariants()
    assert (core.served, core.in_flight) == (1, 0)
    assert core.handle(StageCompleted(0, 0, 0, ended_us=100), 320) == []


def test_a_failed_frame_without_time_left_is_dropped() -> None:
    core = SchedulerCore(two_stages())
    core.handle(RequestArrived(1, deadline_us=400), 0)
    assert core.handle(BatchFailed(0, 0, 0), 150) == [Drop(1, DropReason.FAILED)]
    core.check_invariants()


def test_frames_are_refused_while_all_workers_are_lost_and_served_again_after() -> None:
    core = SchedulerCore(two_stages())
    core.handle(WorkerLost("b.w0"), 0)
    assert core.handle(RequestArrived(1, deadline_us=1_000), 10) == [Drop(1, DropReason.NO_WORKER)]
    core.handle(WorkerBack("b.w0"), 20)
    (dispatch,) = core.handle(RequestArrived(2, deadline_us=1_000), 30)
    assert isinstance(dispatch, Dispatch)
    core.check_invariants()


def test_losing_the_last_worker_drops_what_waits() -> None:
    core = SchedulerCore(one_stage())
    core.handle(RequestArrived(1, deadline_us=1_000), 0)
    core.handle(RequestArrived(2, deadline_us=1_000), 0)
    assert core.handle(WorkerLost("a.w0"), 10) == [Drop(2, DropReason.NO_WORKER)]
    assert core.handle(BatchFailed(0, 0, 0), 11) == [Drop(1, DropReason.NO_WORKER)]
    assert core.unfinished == 0


def test_cancelled_frames_end_once() -> None:
    core = SchedulerCore(one_stage())
    core.handle(RequestArrived(1, deadline_us=1_000), 0)
    core.handle(RequestArrived(2, deadline_us=1_000), 0)
    assert core.handle(RequestCancelled(2), 5) == [Drop(2, DropReason.CANCELLED)]
    assert core.handle(RequestCancelled(1), 6) == [Drop(1, DropReason.CANCELLED)]
    assert core.handle(RequestCancelled(1), 7) == []
    core.check_invariants()
    core.handle(StageCompleted(0, 0, 0, ended_us=100), 100)
    assert (core.served, core.unfinished, core.in_flight) == (0, 0, 0)


def test_higher_priority_goes_first() -> None:
    core = SchedulerCore(one_stage())
    core.handle(RequestArrived(1, deadline_us=1_000), 0)
    core.handle(RequestArrived(2, deadline_us=500), 0)
    core.handle(RequestArrived(3, deadline_us=900, priority=1), 0)
    (dispatch, *_) = core.handle(StageCompleted(0, 0, 0, ended_us=100), 100)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.request_ids == (3,)


def test_a_worker_that_shows_no_sign_of_life_is_given_one_batch_and_no_more() -> None:
    core = SchedulerCore(one_stage(workers=2))
    core.handle(RequestArrived(1, deadline_us=100_000), 0)
    core.handle(RequestArrived(2, deadline_us=100_000), 0)
    sent = []
    for request_id in range(3, 8):
        now_us = request_id * 1_000
        for action in core.handle(RequestArrived(request_id, deadline_us=100_000), now_us):
            if isinstance(action, Dispatch):
                sent.append(action.ticket.hops[0].worker)
                if sent[-1] == "a.w1":
                    core.handle(StageCompleted(action.ticket.batch_id, 0, 0, now_us + 100), now_us + 100)
    core.check_invariants()
    assert sent.count("a.w0") == 1
    assert sent.count("a.w1") == 4


def stalled_core() -> SchedulerCore:
    """One worker with two batches overdue at 250, and no word of either."""
    core = SchedulerCore(one_stage())
    assert isinstance(core.handle(RequestArrived(1, deadline_us=5_000), 0)[0], Dispatch)
    assert core.handle(RequestArrived(2, deadline_us=5_000), 10) == [WakeAt(100)]
    assert isinstance(core.handle(TimerFired(), 100)[0], Dispatch)
    return core


def test_frames_wait_for_workers_that_show_no_sign_of_life_while_there_is_hope() -> None:
    core = stalled_core()
    # Alone on an idle worker it would take 100 us.
    assert core.handle(RequestArrived(3, deadline_us=5_000), 250) == [WakeAt(4_901)]
    core.check_invariants()
    # The next batch began at 290; the frame follows it.
    assert core.handle(StageCompleted(0, 0, 0, 290), 300) == [WakeAt(390)]
    assert isinstance(core.handle(TimerFired(), 390)[0], Dispatch)
    core.check_invariants()


def test_frames_that_wait_for_no_sign_of_life_in_vain_are_dropped() -> None:
    core = stalled_core()
    core.handle(RequestArrived(3, deadline_us=5_000), 250)
    core.handle(RequestArrived(4, deadline_us=6_000, priority=-1), 260)
    assert core.handle(TimerFired(), 4_901) == [Drop(3, DropReason.OVERLOAD), WakeAt(5_901)]
    assert core.handle(WorkerLost("a.w0"), 5_000) == [Drop(4, DropReason.NO_WORKER)]
    core.check_invariants()


def test_stages_that_take_no_time_stall_nobody() -> None:
    """Both batches sent at 5 are due at 5, and notices of them are still to come."""
    core = SchedulerCore(one_stage(latency_us=(0,)))
    waiting = core.handle_arrivals([RequestArrived(i, deadline_us=1_000) for i in range(5)], 5)
    for batch_id in range(5):
        assert not any(isinstance(action, Drop) for action in waiting)
        waiting += core.handle(StageCompleted(batch_id, 0, 0, 5), 5)
    assert sum(isinstance(action, Dispatch) for action in waiting) == core.served == 5


def test_reactive_transfers_queue_on_the_receivers_downlink() -> None:
    model = two_stages(workers=2)
    pipeline = model.pipelines[0]
    behind_one_link = tuple(replace(worker, downlink="down") for worker in pipeline.stages[1].workers)
    stages = (pipeline.stages[0], replace(pipeline.stages[1], workers=behind_one_link))
    core = SchedulerCore(replace(model, pipelines=(replace(pipeline, stages=stages),)), policy="reactive")
    for request_id in (0, 1):
        core.handle(RequestArrived(request_id, deadline_us=1_000), 0)
    core.handle(StageCompleted(0, 0, 0, 100), 100)
    core.handle(StageCompleted(1, 0, 0, 100), 100)
    (first, wake) = core.handle(TimerFired(), 110)
    assert isinstance(first, Dispatch)
    assert wake == WakeAt(120)
    (second,) = core.handle(TimerFired(), 120)
    assert isinstance(second, Dispatch)
    core.check_invariants()


def test_time_that_steps_back_is_taken_as_the_last_time() -> None:
    core = SchedulerCore(one_stage())
    core.handle(TimerFired(), 500)
    (dispatch,) = core.handle(RequestArrived(1, deadline_us=1_000), 100)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.ticket.hops[0].start_us == 500


def test_bad_input_is_named() -> None:
    core = SchedulerCore(one_stage())
    core.handle(RequestArrived(1, deadline_us=1_000), 0)
    with pytest.raises(ValueError, match="request_id 1 arrived while"):
        core.handle(RequestArrived(1, deadline_us=1_000), 0)
    with pytest.raises(ValueError, match="unknown worker 'z'"):
        core.handle(WorkerLost("z"), 0)
    with pytest.raises(ValueError, match="unknown policy 'x'"):
        SchedulerCore(one_stage(), policy="x")


def test_who_owns_no_worker_drops_every_frame() -> None:
    core = SchedulerCore(ServedModel(model="m", slo_us=1_000, planned_rps=0.0, pipelines=()))
    assert core.handle(RequestArrived(1, deadline_us=1_000), 0) == [Drop(1, DropReason.NO_WORKER)]


def test_who_owns_no_worker_has_frames_wait_for_an_owner_while_it_helps() -> None:
    core = SchedulerCore(ServedModel("m", 1_000, planned_rps=0.0, pipelines=(), unowned_us=300))
    assert core.handle(RequestArrived(1, deadline_us=1_000), 0) == [WakeAt(701)]
    assert core.handle(RequestArrived(2, deadline_us=2_000, priority=1), 0) == []
    assert core.handle(RequestArrived(3, deadline_us=299), 0) == [Drop(3, DropReason.EXPIRED)]
    assert core.awaits_owner
    assert core.handle(TimerFired(), 701) == [Drop(1, DropReason.NO_OWNER), WakeAt(1_701)]
    core.check_invariants()
    assert core.handle(RequestCancelled(2), 800) == [Drop(2, DropReason.CANCELLED)]
    assert core.unfinished == core.queue_length == 0


def test_who_yields_its_workers_has_frames_wait_for_their_owner() -> None:
    core = SchedulerCore(one_stage())
    core.handle(RequestArrived(1, deadline_us=10_000), 0)
    assert core.handle(Yielded(), 1) == []
    assert not core.awaits_owner
    core.handle(WorkerLost("a.w0"), 2)
    assert not [each for each in core.handle(BatchFailed(0, 0, 0), 3) if isinstance(each, Drop)]
    assert core.awaits_owner
    assert core.queue_length == 1
    assert [type(each) for each in core.handle(WorkerBack("a.w0"), 4)] == [Dispatch]


def test_frames_that_come_together_share_a_batch() -> None:
    one_by_one = SchedulerCore(one_stage((100, 150), workers=4, batch_size=2))
    arrivals = [RequestArrived(number, deadline_us=1_000) for number in range(3)]
    actions = [action for arrival in arrivals for action in one_by_one.handle(arrival, 0)]
    assert [action.request_ids for action in actions if isinstance(action, Dispatch)] == [(0,), (1,), (2,)]
    together = SchedulerCore(one_stage((100, 150), workers=4, batch_size=2))
    actions = together.handle_arrivals(arrivals, 0)
    assert [action.request_ids for action in actions if isinstance(action, Dispatch)] == [(0, 1), (2,)]
    together.check_invariants()


def test_arrivals_alone_and_none_are_like_events() -> None:
    core, other = SchedulerCore(two_stages()), SchedulerCore(two_stages())
    arrival = RequestArrived(7, deadline_us=1_050)
    assert core.handle_arrivals([arrival], 50) == other.handle(arrival, 50)
    assert core.handle_arrivals([], 60) == []
    with pytest.raises(ValueError, match="request_id 7 arrived while it is still being served"):
        core.handle_arrivals([arrival], 70)


def test_a_worker_that_another_tables_batch_holds_is_given_what_fits_behind_it() -> None:
    old, core = SchedulerCore(two_stages(workers=2)), SchedulerCore(one_stage())
    old.handle(RequestArrived(1, deadline_us=1_000), 0)
    old.handle(WorkerLost("a.w1"), 5)
    legacy = [event for event in old.legacy() if isinstance(event, WorkerTaken | WorkerLost)]
    assert legacy == [WorkerLost("a.w1"), WorkerTaken("a.w0", 100), WorkerTaken("b.w0", 310)]
    assert [core.knows(event.worker) for event in legacy] == [False, True, False]
    core.handle(legacy[1], 10)
    assert core.handle(RequestArrived(1, deadline_us=1_000), 10) == [WakeAt(100)]
    assert core.handle(WorkerTaken("a.w0", 80), 20) == [WakeAt(80)], "it ended earlier"
    (dispatch,) = core.handle(TimerFired(), 80)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.ticket.hops == (tensor_hop("a.w0", 80, 80, 80, 180),)
    core.handle(WorkerTaken("a.w0", 130), 90)  # or later, which it does not wait for unless it must
    assert core.worker_busy_until_us() == {"a.w0": 230}
    core.check_invariants()


def test_frames_that_another_table_has_are_forgotten_and_batches_end_without_them() -> None:
    core = SchedulerCore(two_stages())
    core.handle_arrivals([RequestArrived(number, deadline_us=5_000) for number in range(3)], 0)
    assert (core.queue_length, core.unfinished) == (2, 3)
    core.forget_frames()
    assert (core.queue_length, core.unfinished, core.in_flight) == (0, 0, 1)
    assert core.handle(TimerFired(), 400) == []
    assert core.handle(BatchFailed(0, 0, stage=0), 400) == []
    assert (core.in_flight, core.drops()[DropReason.CANCELLED]) == (0, 0)
    core.check_invariants()


def flood(core: SchedulerCore, every_us: int, count: int) -> list[int]:
    """One frame each so often for one worker; how long before their deadlines those that are served end."""
    spare_us, deadlines, ends = list[int](), dict[int, int](), list[int]()
    for request_id in range(count):
        now_us = every_us * request_id
        actions = []
        while ends and ends[0] <= now_us:
            actions += core.handle(StageCompleted(len(spare_us) - 1, 0, 0, ends[0]), ends.pop(0))
        deadlines[request_id] = now_us + 1_000
        actions += core.handle(RequestArrived(request_id, deadlines[request_id]), now_us)
        for action in actions:
            if isinstance(action, Dispatch):
                ends.append(action.ticket.hops[0].end_us)
                (served,) = action.request_ids
                spare_us.append(deadlines[served] - ends[-1])
    core.check_invariants()
    return spare_us


def test_in_lasting_overload_frames_keep_a_distance_from_their_deadlines() -> None:
    """Twice what one worker serves: as many are served as before, but none at the last moment."""
    spare_us = flood(SchedulerCore(one_stage()), every_us=50, count=400)
    assert len(spare_us) >= 199
    assert min(spare_us[15:25]) == 0, "before it has lasted"
    assert min(spare_us[80:]) >= 1_000 // 3


def test_where_little_is_shed_frames_wait_as_long_as_they_can() -> None:
    spare_us = flood(SchedulerCore(one_stage()), every_us=95, count=1_000)
    assert len(spare_us) >= 949
    assert max(spare_us[400:]) < 100


def _lost_beside_a_flood(bunch: int, flood_every_us: int, count: int) -> tuple[int, int, int]:
    """Frames of priority 1, in bunches that take half the time of one worker, and a flood of priority 0: how
    many of either were dropped, and how many of the flood were served.
    """
    core, ends = SchedulerCore(one_stage()), list[int]()
    lost, served_low = {0: 0, 1: 0}, 0
    came = [(bunch * 200 * number, 1) for number in range(count // bunch) for _ in range(bunch)]
    came += [(flood_every_us * number, 0) for number in range(count * 200 // flood_every_us)]
    came.sort()
    for request_id, (now_us, priority) in enumerate(came):
        actions = []
        while ends and ends[0] <= now_us:
            actions += core.handle(StageCompleted(core.next_batch_id - 1, 0, 0, ends[0]), ends.pop(0))
        actions += core.handle(RequestArrived(request_id, now_us + 1_000, priority), now_us)
        for action in actions:
            if isinstance(action, Dispatch):
                ends.append(action.ticket.hops[0].end_us)
                served_low += came[action.request_ids[0]][1] == 0
            elif isinstance(action, Drop):
                lost[came[action.request_id][1]] += 1
    core.check_invariants()
    return lost[1], lost[0], served_low


@pytest.mark.parametrize("bunch", [1, 2, 4, 8])
@pytest.mark.parametrize("flood_every_us", [20, 50, 90])
def test_what_is_shed_of_a_lower_priority_costs_a_higher_one_nothing(bunch: int, flood_every_us: int) -> None:
    lost_high, lost_low, served_low = _lost_beside_a_flood(bunch, flood_every_us, 800)
    assert lost_high == 0
    assert lost_low > 100
    assert served_low >= 700, "all that the other leaves"


def test_overload_is_forgotten_two_slos_after_it() -> None:
    """All of a burst that one worker can serve are served, the last of them near their deadline."""
    core = SchedulerCore(one_stage())
    flood(core, every_us=50, count=100)
    assert core.drops()[DropReason.OVERLOAD] > 30
    now_us = 50 * 99
    while core.in_flight:
        now_us += 100
        core.handle(StageCompleted(core.next_batch_id - 1, 0, 0, now_us), now_us)
    now_us += 2_000
    before = core.drops()[DropReason.OVERLOAD]
    burst = [RequestArrived(request_id, now_us + 1_000) for request_id in range(1_000, 1_009)]
    core.handle_arrivals(burst, now_us)
    while core.in_flight:
        now_us += 100
        core.handle(StageCompleted(core.next_batch_id - 1, 0, 0, now_us), now_us)
    assert core.drops()[DropReason.OVERLOAD] == before
