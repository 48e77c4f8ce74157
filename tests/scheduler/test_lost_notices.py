"""A notice stands for all that must have ended before it, on its worker and in the batches served there."""

from __future__ import annotations

from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from python_backend.scheduler.actions import Dispatch
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import BatchFailed, RequestArrived, StageCompleted


def stage(position: int, workers: int) -> ServedStage:
    return ServedStage(
        gpu="G",
        slices_per_gpu=1,
        latency_us=(100,),
        workers=tuple(
            ServedWorker(
                name=f"s{position}.w{w}", server="", uplink=f"up{position}", downlink=f"down{position}"
            )
            for w in range(workers)
        ),
    )


def test_a_later_batch_on_a_shared_worker_tells_that_an_earlier_one_has_passed_all_stages_before() -> None:
    pipeline = ServedPipeline(
        batch_size=1, stages=(stage(0, 2), stage(1, 1), stage(2, 2)), transfer_us=((0,), (0,))
    )
    core = SchedulerCore(ServedModel(model="m", slo_us=5_000, planned_rps=1.0, pipelines=(pipeline,)))
    now_us, tickets = 0, []
    for request_id, now_us in enumerate((0, 100)):
        for action in core.handle(RequestArrived(request_id, 5_000), now_us):
            if isinstance(action, Dispatch):
                tickets.append(action.ticket)
    first, second = tickets
    assert first.hops[0].worker != second.hops[0].worker
    assert first.hops[1].worker == second.hops[1].worker
    core.handle(StageCompleted(second.batch_id, second.attempt, 1, 300), 300)
    core.check_invariants()
    assert core.worker_busy_until_us()[first.hops[0].worker] == 100
    core.handle(BatchFailed(second.batch_id, second.attempt, 2), 350)
    core.check_invariants()
    assert [core._state.batches[first.batch_id].hops[index] for index in (0, 1)] == [None, None]
